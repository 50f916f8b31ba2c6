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

from chatbridge.engine.backend import Backend, BackendType
from chatbridge.errors import ModelLoadError, ModelUnavailable
from chatbridge.worker.backoff import Backoff

if TYPE_CHECKING:
    from chatbridge.config.settings import ModelSettings

log = logging.getLogger(__name__)

LoadProgress = Callable[[str, float, str], None]
"""Called while a model loads: its name, a share from 0 to 1, and a word for what is happening."""


@dataclass(slots=True, eq=False)
class _Loaded:
    settings: ModelSettings
    backend: Backend
    users: int = 0
    retired: bool = False


@dataclass(slots=True, eq=False)
class _Failing:
    settings: ModelSettings
    backoff: Backoff = field(default_factory=lambda: Backoff(free=0))


@dataclass(slots=True)
class ModelPool:
    """All loaded models of one program, by the names that bots.yaml gives them.

    `find_backend`: the backend of a name; raises PluginError. `hidden_variables`: names of those that no worker may
    have; see `child_environment`.
    """

    find_backend: Callable[[str], BackendType]
    on_progress: LoadProgress | None = None
    hidden_variables: Callable[[], frozenset[str]] = frozenset
    _loaded: dict[str, _Loaded] = field(default_factory=dict)
    _failing: dict[str, _Failing] = field(default_factory=dict)
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

    def states(self) -> dict[str, str]:
        """What each model does that was asked for: "running", or in words what is wrong."""
        running = {name: str(getattr(loaded.backend, "state", "running")) for name, loaded in self._loaded.items()}
        failing = {name: f"can't be loaded, {one.backoff.failures} times" for name, one in self._failing.items()}
        return {**failing, **running}

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
            fresh = self._loaded[settings.name] = _Loaded(settings, await self._try_to_start(settings))
            details = ", ".join(f"{key} {value}" for key, value in fresh.backend.info.details.items())
            log.info("the model %s is loaded: %s", settings.name, details or fresh.backend.info.architecture)
            return fresh

    async def _try_to_start(self, settings: ModelSettings) -> Backend:
        """Start a model, unless it failed to just now: a large one that can't be loaded isn't tried for each message.

        Raises: PluginError, ModelLoadError, ModelUnavailable.
        """
        failing = self._failing.get(settings.name)
        if failing is None or not failing.settings.loads_like(settings):
            failing = _Failing(settings)
        if (wait := failing.backoff.remaining()) > 0:
            raise ModelUnavailable(f"{failing.backoff.reason} (tried again in {wait:.0f} s)", seconds=wait)
        try:
            backend = await self._start(settings)
        except ModelLoadError as error:
            failing.backoff.failed(str(error))
            self._failing[settings.name] = failing
            if failing.backoff.failures > 1:  # whoever asked tells of the first one
                log.error(
                    "the model %s can't be loaded (%d times now; tried again when it is asked for, at the earliest in "
                    "%.0f s): %s",
                    *(settings.name, failing.backoff.failures, failing.backoff.remaining(), error),
                )
            raise
        self._failing.pop(settings.name, None)
        return backend

    async def _start(self, settings: ModelSettings) -> Backend:
        kind = self.find_backend(settings.backend)
        if kind.connect is not None:
            backend: Backend = await kind.connect(settings.options)
            return backend

        from chatbridge.worker.backend import WorkerBackend

        def progress(share: float, doing: str) -> None:
            if self.on_progress is not None:
                self.on_progress(settings.name, share, doing)

        worker = WorkerBackend(
            kind,
            settings.options,
            name=settings.name,
            max_batch=settings.max_batch,
            on_progress=progress,
            hang_timeout=settings.hang_timeout,
            memory_limit=settings.memory_limit,
            kept_states=settings.kept_states,
            hidden=self.hidden_variables(),
        )
        await worker.start()
        return worker
