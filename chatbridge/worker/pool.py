"""Keeps the models that are in use: each is loaded once, shared by all bots, and reloaded when its settings change.

Knows how a model is started (a worker process, or a backend's own `connect`), nothing of prompts or chats.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatbridge.engine.backend import Backend

if TYPE_CHECKING:
    from chatbridge.config.settings import ModelSettings
    from chatbridge.plugins.manager import Plugins

log = logging.getLogger(__name__)

LoadProgress = Callable[[str, float, str], None]
"""Called while a model loads: its name, a share from 0 to 1, and a word for what is happening."""


@dataclass(slots=True, eq=False)
class _Loaded:
    settings: ModelSettings
    backend: Backend
    users: int = 0
    retired: bool = False


@dataclass(slots=True)
class ModelPool:
    """All loaded models of one program, by the names that bots.yaml gives them."""

    plugins: Plugins
    on_progress: LoadProgress | None = None
    _loaded: dict[str, _Loaded] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    @asynccontextmanager
    async def use(self, settings: ModelSettings) -> AsyncIterator[Backend]:
        """The model, loaded if need be, and kept at least until the block ends.

        Raises: PluginError, ModelLoadError.
        """
        loaded = await self._get(settings)
        loaded.users += 1
        try:
            yield loaded.backend
        finally:
            loaded.users -= 1
            if loaded.retired and not loaded.users:
                await loaded.backend.aclose()

    def loaded(self) -> dict[str, Backend]:
        """The models that are loaded right now."""
        return {name: loaded.backend for name, loaded in self._loaded.items()}

    async def aclose(self) -> None:
        """Close every model; answers in flight end as cancelled."""
        closing = [loaded.backend.aclose() for loaded in self._loaded.values()]
        self._loaded.clear()
        await asyncio.gather(*closing)

    async def _get(self, settings: ModelSettings) -> _Loaded:
        # One lock a model: whoever comes second waits for the first one's load instead of starting another.
        async with self._locks.setdefault(settings.name, asyncio.Lock()):
            loaded = self._loaded.get(settings.name)
            if loaded is not None and loaded.settings.loads_like(settings):
                return loaded
            if loaded is not None:
                # The old one goes first where nobody uses it: two large models would not fit side by side.
                del self._loaded[settings.name]
                loaded.retired = True
                if not loaded.users:
                    await loaded.backend.aclose()
            fresh = self._loaded[settings.name] = _Loaded(settings, await self._start(settings))
            details = ", ".join(f"{key} {value}" for key, value in fresh.backend.info.details.items())
            log.info("the model %s is loaded: %s", settings.name, details or fresh.backend.info.architecture)
            return fresh

    async def _start(self, settings: ModelSettings) -> Backend:
        kind = self.plugins.require_backend(settings.backend)
        if kind.connect is not None:
            backend: Backend = await kind.connect(settings.options)
            return backend

        from chatbridge.worker.backend import WorkerBackend

        def progress(share: float, doing: str) -> None:
            if self.on_progress is not None:
                self.on_progress(settings.name, share, doing)

        worker = WorkerBackend(
            kind, settings.options, name=settings.name, max_batch=settings.max_batch, on_progress=progress
        )
        await worker.start()
        return worker
