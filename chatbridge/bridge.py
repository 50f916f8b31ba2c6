"""Runs all bots of one program: shared models, one store, frontends that are started again where they fail.

Knows bots, settings and frontends; what a bot does about a message is `bot`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from chatbridge.bots.bot import Bot
from chatbridge.bots.services import OpenDelivery, Services
from chatbridge.config.settings import BotSettings, Settings
from chatbridge.errors import ChatbridgeError, ConfigError, PluginError
from chatbridge.operations.printable import in_one_line
from chatbridge.plugins.manager import Plugins
from chatbridge.prompts.confusables import looks_of
from chatbridge.prompts.jinja_renderer import JinjaRenderer
from chatbridge.store import Store
from chatbridge.store.upkeep import Upkeep
from chatbridge.suggest import did_you_mean
from chatbridge.types import Channel
from chatbridge.worker.pool import LoadProgress, ModelPool

if TYPE_CHECKING:
    from chatbridge.config.source import SettingsSource

log = logging.getLogger(__name__)


class Bridge:
    """All bots of one program, on shared models and one store. Use it as an async context manager.

        async with Bridge(source, plugins) as bridge:
            reply = await bridge.bot("guild").receive(message)

    `source.current` is read anew for every message, so that a changed bots.yaml needs no restart. `shared`: use the
    store beside a program that has it for itself; for talks without inbox and outbox, such as the terminal's. `config`:
    the bots.yaml that it comes from, named to programs that find the store in use. Raises: StoreInUse, StoreError.
    """

    services: Services

    def __init__(
        self,
        source: SettingsSource,
        plugins: Plugins,
        *,
        on_progress: LoadProgress | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        shared: bool = False,
        config: str = "",
    ) -> None:
        self.source = source
        self.plugins = plugins
        self.models = ModelPool(plugins.require_backend, on_progress, lambda: source.current.variables, clock)
        source.on_change(lambda: self.models.follow(source.current.models))
        self.states: dict[str, str] = {}
        """Each bot's: "running", "failing" while its frontend waits to be started again, "stopped" where only a person
        can mend what is wrong, or "ended"."""
        self._mistakes: dict[str, str] = {}
        self._clock, self._monotonic = clock, monotonic
        self._shared = shared
        self._config = config
        self._bots: dict[str, Bot] = {}

    async def __aenter__(self) -> Self:
        store = await Store.open(self.settings.store, shared=self._shared, config=self._config)
        renderer = JinjaRenderer(lambda: self.settings.template_limits)
        self.services = Services(
            self.source, store, self.models, self.plugins, self._clock, self._monotonic, renderer=renderer
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.models.aclose()
        await self.services.renderer.off_loop(self.services.renderer.close)
        await self.store.aclose()

    @property
    def store(self) -> Store:
        """Where conversations are kept."""
        return self.services.store

    @property
    def deliveries(self) -> Collection[OpenDelivery]:
        """Those that are open now, one for each bot of a chat service."""
        return self.services.deliveries

    @property
    def settings(self) -> Settings:
        """What bots.yaml says now."""
        return self.source.current

    def bot(self, name: str) -> Bot:
        """The bot of that name; one that bots.yaml does not mention (the terminal's) has the top-level defaults."""
        return self._bots.setdefault(name, Bot(self.services, name))

    async def run(self, names: Iterable[str] = (), *, restart_after: float = 1.0) -> None:
        """Serve the named bots, or all, until they end or this is cancelled. One that fails does not stop others.

        A bot that a changed bots.yaml adds, takes out, or gives other options is started, stopped, or both.
        `restart_after`: seconds until a frontend that failed is started again; doubled each time.
        Raises: ConfigError for a bot that bots.yaml does not have, if there is none at all, or if none is left to run
        and one of them had a mistake that only a person can mend.
        """
        chosen = checked_names(self.settings, names)
        changed = asyncio.Event()
        self.source.on_change(changed.set)
        serving: dict[str, tuple[BotSettings, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.source.watch())
            loading = group.create_task(self._load_models(chosen))
            upkeep = group.create_task(Upkeep(self.store, lambda: self.settings.keep, self._in_use).run())
            while True:
                changed.clear()
                wanted = {name: bot for name, bot in self.settings.bots.items() if not chosen or name in chosen}
                for name, (settings, task) in list(serving.items()):
                    if name not in wanted or not wanted[name].serves_like(settings):
                        log.info("bot %s: stopping, since bots.yaml has changed", name)
                        task.cancel()
                        await asyncio.wait([task])
                        del serving[name]
                        self.states.pop(name, None)
                        self._mistakes.pop(name, None)
                for name in wanted.keys() - serving.keys():
                    serving[name] = (wanted[name], group.create_task(self._serve(name, wanted[name], restart_after)))
                if not await _until_changed(changed, [task for _, task in serving.values()]):
                    break
            watching.cancel()
            loading.cancel()
            upkeep.cancel()
        if self._mistakes:
            raise ConfigError("no bot is left:\n" + "\n".join(self._mistakes.values()))

    def _in_use(self, bot: str, key: str) -> bool:
        return bot in self._bots and self._bots[bot].uses(key)

    async def _load_models(self, chosen: set[str]) -> None:
        """Load what the bots will need, so that the first message need not wait, and what is wrong is known at once."""
        await asyncio.to_thread(looks_of, "é")  # reads the table of look-alikes
        bots = [bot for name, bot in self.settings.bots.items() if not chosen or name in chosen]
        needed = {self.bot(bot.name).effective(Channel("")).model for bot in bots}
        needed |= {channel.model for bot in bots for channel in bot.channels.values() if channel.model}
        for name in sorted(needed & self.settings.models.keys()):
            try:
                async with self.models.use(self.settings.models[name]):
                    pass
            except ChatbridgeError as error:
                log.error("the model %s can't be used: %s", name, error)
            except Exception:  # a backend with a mistake in it must not take the bots down
                log.exception("the model %s can't be used", name)

    async def _serve(self, name: str, settings: BotSettings, restart_after: float) -> None:
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        assert this is not None
        wait = restart_after
        while True:
            began = loop.time()
            try:
                frontend = self.plugins.require_frontend(settings.frontend)
                log.info("bot %s: %s starts", name, settings.frontend)
                self.states[name] = "running"
                await frontend.run(settings.options, self.bot(name))
                if frontend.ends:
                    log.info("bot %s: %s ended", name, settings.frontend)
                    self.states[name] = "ended"
                    return
                raise FrontendEnded("it returned, though nobody had told it to")
            except (Exception, asyncio.CancelledError, SystemExit) as error:
                if this.cancelling():
                    if isinstance(error, asyncio.CancelledError):
                        raise
                    log.exception("bot %s: %s failed while it was stopped", name, settings.frontend)
                    return
                if isinstance(error, ConfigError | PluginError):
                    self._mistakes[name] = str(error)
                    self.states[name] = "stopped"
                    log.error("bot %s stays away until bots.yaml changes or the program starts anew: %s", name, error)
                    return
                if loop.time() - began > _LONGEST_WAIT:  # it has been well in between
                    wait = restart_after
                # An error of ours says what is wrong and what to do; a traceback at each try would bury it.
                trace = None if isinstance(error, FrontendEnded | ChatbridgeError) else error
                log.error(
                    "bot %s: %s ended by an error; starting again in %g s: %s",
                    *(name, settings.frontend, wait, in_one_line(str(error) or type(error).__name__)),
                    exc_info=trace,
                )
                self.states[name] = "failing"
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)


class FrontendEnded(Exception):
    """A frontend's `run` has returned without having been cancelled."""


def checked_names(settings: Settings, names: Iterable[str]) -> set[str]:
    """The names as a set. Raises ConfigError for a bot that bots.yaml does not have, or if there is none at all."""
    bots, chosen = settings.bots, set(names)
    for name in chosen - bots.keys():
        raise ConfigError(f"bots.yaml has no bot {name!r}{did_you_mean(name, bots)}")
    if not bots:
        raise ConfigError("bots.yaml has no bots; add one under `bots:`, or talk to a model by `chatbridge repl`")
    return chosen


async def _until_changed(changed: asyncio.Event, tasks: list[asyncio.Task[None]]) -> bool:
    """Wait until the settings change (True), or all of the tasks have ended (False).

    Where a changed bots.yaml has left no bot, wait for the next change.
    """
    waiting = asyncio.create_task(changed.wait())
    try:
        while (not tasks or any(not task.done() for task in tasks)) and not waiting.done():
            await asyncio.wait([waiting, *(task for task in tasks if not task.done())], return_when="FIRST_COMPLETED")
        return waiting.done()
    finally:
        waiting.cancel()


_LONGEST_WAIT = 300
"""Seconds between restarts of a frontend that fails, at most."""
