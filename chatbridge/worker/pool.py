"""Keeps the models that are in use: each is loaded once, shared by all bots, reloaded when its settings change, and
unloaded when nobody has used it for as long as these say.

Knows how a model is started (a worker process, or a backend's own `connect`), nothing of prompts or chats.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatbridge.engine.backend import Backend, BackendType
from chatbridge.engine.disk_cache import UNLOAD_SECONDS
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
    gone: bool = False
    unused_since: float = 0.0
    waiting: asyncio.Task[None] | None = None

    def stop_waiting(self) -> None:
        """Do not unload it: somebody uses it again, or it goes anyway."""
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None


@dataclass(slots=True, eq=False)
class _Failing:
    settings: ModelSettings
    backoff: Backoff = field(default_factory=lambda: Backoff(free=0))


@dataclass(slots=True)
class ModelPool:
    """All loaded models of one program, by the names that bots.yaml gives them.

    `find_backend`: the backend of a name; raises PluginError. `hidden_variables`: names of those that no worker may
    have; see `child_environment`. `clock` gives seconds since the epoch, `sleep` waits for some.
    """

    find_backend: Callable[[str], BackendType]
    on_progress: LoadProgress | None = None
    hidden_variables: Callable[[], frozenset[str]] = frozenset
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _loaded: dict[str, _Loaded] = field(default_factory=dict)
    _unloaded: dict[str, float] = field(default_factory=dict)
    _waiting: set[asyncio.Task[None]] = field(default_factory=set)
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
            if not loaded.users:
                loaded.unused_since = self.clock()
                if loaded.retired:
                    await loaded.backend.aclose()
                else:
                    self._wait_for_use(loaded)

    def is_loaded(self, settings: ModelSettings) -> bool:
        """Whether `use` has it at once, without loading it first."""
        loaded = self._loaded.get(settings.name)
        return loaded is not None and loaded.settings.loads_like(settings)

    def follow(self, models: Mapping[str, ModelSettings]) -> None:
        """Take over from a changed bots.yaml how long models that nobody uses stay loaded, and forget who is gone."""
        for name, loaded in self._loaded.items():
            fresh = models.get(name)
            loaded.gone = fresh is None
            if fresh is not None and fresh.loads_like(loaded.settings) and fresh != loaded.settings:
                loaded.settings = fresh
                loaded.stop_waiting()
                self._wait_for_use(loaded)
        for known in (self._unloaded, self._failing):
            for name in known.keys() - models.keys():
                known.pop(name)

    def loaded(self) -> dict[str, Backend]:
        """The models that are loaded right now."""
        return {name: loaded.backend for name, loaded in self._loaded.items()}

    def states(self) -> dict[str, str]:
        """What each model does that was asked for: "running", or in words what is wrong."""
        running = {name: str(getattr(loaded.backend, "state", "running")) for name, loaded in self._loaded.items()}
        failing = {name: f"can't be loaded, {one.backoff.failures} times" for name, one in self._failing.items()}
        unloaded = {name: f"unloaded, idle since {_moment(since)}" for name, since in self._unloaded.items()}
        return {**unloaded, **failing, **running}

    def unloaded(self) -> dict[str, float]:
        """The models that are not loaded since nobody has used them, and that will be when somebody does.

        With the time since which nobody has, in seconds since the epoch.
        """
        return dict(self._unloaded)

    async def aclose(self) -> None:
        """Close every model; answers in flight end as cancelled."""
        closing = [loaded.backend.aclose() for loaded in self._loaded.values()]
        for loaded in self._loaded.values():
            loaded.stop_waiting()
        self._loaded.clear()
        try:
            await asyncio.gather(*closing)
        finally:
            await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _get(self, settings: ModelSettings) -> _Loaded:
        # One lock a model: whoever comes second waits for the first one's load instead of starting another.
        async with self._locks.setdefault(settings.name, asyncio.Lock()):
            loaded = self._loaded.get(settings.name)
            if loaded is not None:
                loaded.stop_waiting()
            if loaded is not None and loaded.settings.loads_like(settings):
                loaded.settings = settings
                return loaded
            if loaded is not None:
                # The old one goes first where nobody uses it: two large models would not fit side by side.
                del self._loaded[settings.name]
                loaded.retired = True
                if not loaded.users:
                    await loaded.backend.aclose()
            fresh = self._loaded[settings.name] = _Loaded(settings, await self._try_to_start(settings))
            self._unloaded.pop(settings.name, None)
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
            self._unloaded.pop(settings.name, None)
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
            states_folder=settings.states_folder if settings.idle_minutes else None,
            hidden=self.hidden_variables(),
        )
        await worker.start()
        return worker

    # --- when nobody asks --------------------------------------------------------------------------------------

    def _wait_for_use(self, loaded: _Loaded) -> None:
        """Unload a model when nobody has used it for as long as its settings say, unless somebody does before."""
        minutes = loaded.settings.idle_minutes
        if not minutes or loaded.users or self._loaded.get(loaded.settings.name) is not loaded:
            return
        # A clock that was put back may not keep it for longer than that.
        seconds = min(60.0 * minutes, loaded.unused_since + 60.0 * minutes - self.clock())
        loaded.waiting = asyncio.create_task(self._unload_after(seconds, loaded))
        self._waiting.add(loaded.waiting)
        loaded.waiting.add_done_callback(self._waiting.discard)

    async def _unload_after(self, seconds: float, loaded: _Loaded) -> None:
        """Cancelled where somebody uses it meanwhile, also while its states are written: nothing is lost yet then."""
        await self.sleep(max(0.0, seconds))
        name = loaded.settings.name
        stored = await self._store_states(loaded)
        async with self._locks[name]:
            # From here on, who wants it waits for the lock, and then has it loaded again. Whoever had it before, or has
            # closed it, has cancelled this.
            del self._loaded[name]
            if not loaded.gone:
                self._unloaded[name] = loaded.unused_since
            log.info(
                "the model %s is unloaded: nobody has used it for %d min; %s",
                name,
                loaded.settings.idle_minutes,
                stored,
            )
            try:
                await loaded.backend.aclose()
            except Exception:  # a backend with a mistake in it; it is used no more
                log.exception("the model %s could not be closed as it should be", name)

    async def _store_states(self, loaded: _Loaded) -> str:
        """Have what was read of conversations put on disk, and say what came of it."""
        folder, store = loaded.settings.states_folder, getattr(loaded.backend, "store_states", None)
        if store is None:
            return "its backend keeps no states that could be put on disk"
        if folder is None:
            return "histories will be read again, since its keep_states is false"
        try:
            async with asyncio.timeout(2 * UNLOAD_SECONDS):
                there, missing = await store(folder)
        except Exception as error:  # whatever it is, the memory is to be freed
            log.warning(
                "what the model %s has read could not be put into %s, and will be read again: %s",
                *(loaded.settings.name, folder, "it took too long" if isinstance(error, TimeoutError) else error),
            )
            return "histories will be read again"
        if missing:
            log.warning(
                "%d of %d states of the model %s could not be put into %s in time, or have no room there; what they "
                "had read will be read again",
                *(missing, there + missing, loaded.settings.name, folder),
            )
        return f"what it has read of conversations is in {folder} ({there} states)"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
