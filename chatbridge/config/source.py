"""The settings of a running program: read again when their files change, kept as they are when one has errors.

Knows files and how to read them; does not know what the settings are used for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chatbridge.config.files import read_file
from chatbridge.config.reader import load
from chatbridge.config.settings import ModelSettings, Settings
from chatbridge.errors import ConfigError

if TYPE_CHECKING:
    from chatbridge.plugins.manager import Plugins

log = logging.getLogger(__name__)

TICK = 2.0
"""Seconds from one look at the files to the next. A system's reports of changes would be quicker, but network drives
make none, editors put new files in the place of old ones, and those who wait for reports wake up more often than this.
"""


class SettingsSource:
    """The `current` settings, which `watch` keeps up with their files; without a file only `change` changes them."""

    def __init__(self, settings: Settings) -> None:
        self.current = settings
        self._files: frozenset[Path] = frozenset()
        self._read: Callable[[set[Path]], Settings] = lambda looked_at: settings
        self._listeners: list[Callable[[], None]] = []

    @classmethod
    def of_file(cls, path: Path, plugins: Plugins, environment: Mapping[str, str] | None = None) -> SettingsSource:
        """The settings in a file. Raises ConfigError."""
        files: set[Path] = set()
        source = cls(load(path, plugins, environment, looked_at=files))
        source._files = frozenset(files)
        source._read = lambda looked_at: load(path, plugins, environment, looked_at=looked_at)
        return source

    def add_model(self, model: ModelSettings) -> None:
        """Have one model more, whatever the files say, also after each reload."""
        read = self._read
        self._read = lambda looked_at: read(looked_at).with_model(model)
        self.change(self.current.with_model(model))

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have `listener` called whenever `current` has become another."""
        self._listeners.append(listener)

    def reload(self) -> bool:
        """Read the files again; an error in one is logged and changes nothing. Returns whether they could be read."""
        looked_at: set[Path] = set()
        try:
            fresh = self._read(looked_at)
        except ConfigError as error:
            log.error("the old settings stay, since the changed file has mistakes:\n%s", error)
            return False
        finally:
            self._files = frozenset(looked_at)  # also those that are missing: they may come
        if fresh != self.current:
            log.info("the settings have changed; the next message follows them")
            self.change(fresh)
        return True

    def change(self, settings: Settings) -> None:
        """Make these the current settings and tell all listeners; a file of theirs is not written."""
        self.current = settings
        for listener in self._listeners:
            listener()

    async def watch(self, started: asyncio.Event | None = None, *, tick: float = TICK) -> None:
        """Reload whenever a file changes, until cancelled. `started` is set once the watch is on.

        `tick`: seconds from one look at the files to the next.
        """
        if not self._files:
            await asyncio.Event().wait()
        # Nothing is known at first: a file may have changed since it was read.
        contents: dict[Path, bytes] | None = None
        while True:
            found = await asyncio.to_thread(_contents, self._files)
            if found != contents:
                contents = found
                self.reload()
            if started is not None:
                started.set()
            await asyncio.sleep(tick)


def _contents(files: frozenset[Path]) -> dict[Path, bytes]:
    contents = {}
    for file in files:
        try:
            contents[file] = read_file(file)
        except OSError:  # being replaced just now, or gone: the reader will say so
            contents[file] = b""
    return contents
