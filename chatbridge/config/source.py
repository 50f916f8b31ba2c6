"""The settings of a running program: read again when their file changes, kept as they were when it is broken.

Knows files and how to read them; does not know what the settings are used for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chatbridge.config.reader import load
from chatbridge.config.settings import Settings
from chatbridge.errors import ConfigError

if TYPE_CHECKING:
    from chatbridge.plugins import Plugins

log = logging.getLogger(__name__)


class SettingsSource:
    """`current` settings, which `watch` keeps up with their file. Without a file they stay as they are."""

    def __init__(self, settings: Settings) -> None:
        self.current = settings
        self._path: Path | None = None
        self._read: Callable[[], Settings] = lambda: settings
        self._listeners: list[Callable[[], None]] = []

    @classmethod
    def of_file(cls, path: Path, plugins: Plugins, environment: Mapping[str, str] | None = None) -> SettingsSource:
        """The settings in a file. Raises ConfigError."""
        source = cls(load(path, plugins, environment))
        source._path = path
        source._read = lambda: load(path, plugins, environment)
        return source

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have `listener` called whenever `current` has become another."""
        self._listeners.append(listener)

    def reload(self) -> bool:
        """Read the file again; a broken one is reported and changes nothing. Whether it could be read."""
        try:
            fresh = self._read()
        except ConfigError as error:
            log.error("the old settings stay, since the changed file has mistakes:\n%s", error)
            return False
        if fresh != self.current:
            log.info("%s was changed; the next message follows it", self._path)
            self.current = fresh
            for listener in self._listeners:
                listener()
        return True

    async def watch(self, started: asyncio.Event | None = None) -> None:
        """Reload whenever a file changes, until cancelled. `started` is set when the watch is on."""
        if self._path is None:
            await asyncio.Event().wait()
        import watchfiles

        contents = _contents(self._files())
        while True:
            # The folders are watched, not the files: editors replace a file by renaming another over it.
            folders = sorted({str(file.absolute().parent) for file in self._files()})
            watch = watchfiles.awatch(*folders, recursive=False, yield_on_timeout=True, rust_timeout=_TICK)
            async for _ in watch:
                # The first time round comes from the timeout or a change; either way the watch is on by now.
                if started is not None:
                    started.set()
                found = await asyncio.to_thread(_contents, self._files())
                if found != contents:
                    contents = found
                    if self.reload():
                        contents = _contents(self._files())
                        break  # the files may be others now

    def _files(self) -> tuple[Path, ...]:
        return self.current.files or ((self._path,) if self._path else ())


_TICK = 1000
"""Milliseconds after which the files are looked at even if no change was reported, as on network drives."""


def _contents(files: tuple[Path, ...]) -> dict[Path, bytes]:
    contents = {}
    for file in files:
        try:
            contents[file] = file.read_bytes()
        except OSError:  # being replaced just now, or gone: the reader will say so
            contents[file] = b""
    return contents
