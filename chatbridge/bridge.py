"""Joins frontends to models: takes messages in, decides what they ask for, and hands out answers.

Knows bots, their settings and their conversations; knows no chat service and no engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from chatbridge.commands import CommandContext, expand, parse
from chatbridge.config import BotSettings, ChannelSettings, ModelSettings, Settings
from chatbridge.dialogue import Answer, Dialogue, LiveTurn
from chatbridge.errors import ChatbridgeError, ConfigError
from chatbridge.models import LoadProgress, Models
from chatbridge.plugins import Plugins, did_you_mean
from chatbridge.store import Store
from chatbridge.texts import pick_language
from chatbridge.types import Channel, Message

if TYPE_CHECKING:
    from chatbridge.config import SettingsSource
    from chatbridge.prompts import Template

log = logging.getLogger(__name__)


class Bridge:
    """All bots of one program, on shared models and one store. Use it as an async context manager.

        async with Bridge(source, plugins) as bridge:
            turn = await bridge.bot("guild").receive(message)

    `source.current` is read anew for every message, so that a changed bots.yaml needs no restart.
    """

    store: Store

    def __init__(self, source: SettingsSource, plugins: Plugins, *, on_progress: LoadProgress | None = None) -> None:
        self.source = source
        self.plugins = plugins
        self.models = Models(plugins, on_progress)
        self.looked_over: set[tuple[str, str]] = set()
        """Pairs of template and model that the template doctor has seen."""
        self._bots: dict[str, Bot] = {}

    async def __aenter__(self) -> Self:
        self.store = await Store.open(self.settings.store)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.models.aclose()
        await self.store.aclose()

    @property
    def settings(self) -> Settings:
        return self.source.current

    def bot(self, name: str) -> Bot:
        """The bot of that name; one that bots.yaml does not mention (the terminal's) has the top-level defaults."""
        return self._bots.setdefault(name, Bot(self, name))

    async def run(self, names: Iterable[str] = (), *, restart_after: float = 1.0) -> None:
        """Serve the named bots, or all, until they end or this is cancelled. One that fails does not stop others.

        A bot that a changed bots.yaml adds, takes out, or gives other options is started, stopped, or both.
        `restart_after`: seconds until a frontend that failed is started again; doubled each time.
        Raises: ConfigError for a bot that bots.yaml does not have, or if there is none at all.
        """
        chosen = self._checked(names)
        changed = asyncio.Event()
        self.source.on_change(changed.set)
        serving: dict[str, tuple[BotSettings, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.source.watch())
            loading = group.create_task(self._load_models(chosen))
            while True:
                changed.clear()
                wanted = {name: bot for name, bot in self.settings.bots.items() if not chosen or name in chosen}
                for name, (settings, task) in list(serving.items()):
                    if name not in wanted or not wanted[name].serves_like(settings):
                        log.info("bot %s: stopping, since bots.yaml has changed", name)
                        task.cancel()
                        await asyncio.wait([task])
                        del serving[name]
                for name in wanted.keys() - serving.keys():
                    serving[name] = (wanted[name], group.create_task(self._serve(name, wanted[name], restart_after)))
                if not await _until_changed(changed, [task for _, task in serving.values()]):
                    break
            watching.cancel()
            loading.cancel()

    async def _load_models(self, chosen: set[str]) -> None:
        """Load what the bots will need, so that the first message need not wait, and what is wrong is known at once."""
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

    def _checked(self, names: Iterable[str]) -> set[str]:
        bots = self.settings.bots
        chosen = set(names)
        for name in chosen - bots.keys():
            raise ConfigError(f"bots.yaml has no bot {name!r}{did_you_mean(name, bots)}")
        if not bots:
            raise ConfigError("bots.yaml has no bots; add one under `bots:`, or talk to a model by `chatbridge repl`")
        return chosen

    async def _serve(self, name: str, settings: BotSettings, restart_after: float) -> None:
        frontend = self.plugins.require_frontend(settings.frontend)
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        wait = restart_after
        while True:
            log.info("bot %s: %s starts", name, settings.frontend)
            began = loop.time()
            try:
                await frontend.run(settings.options, self.bot(name))
            except Exception:
                if this is not None and this.cancelling():
                    log.exception("bot %s: %s failed while it was stopped", name, settings.frontend)
                    return
                if loop.time() - began > _LONGEST_WAIT:  # it has been well in between
                    wait = restart_after
                log.exception("bot %s: %s ended by an error; starting again in %g s", name, settings.frontend, wait)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                log.info("bot %s: %s ended", name, settings.frontend)
                return


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


class Bot:
    """One bot: what a frontend talks to."""

    def __init__(self, bridge: Bridge, name: str) -> None:
        self.bridge = bridge
        self.name = name
        self._dialogues: dict[tuple[str, str], Dialogue] = {}

    @property
    def settings(self) -> BotSettings | None:
        """This bot's entry in bots.yaml, if it has one."""
        return self.bridge.settings.bots.get(self.name)

    @property
    def templates(self) -> Mapping[str, Template]:
        """Every template by its name: presets, plugins', and those of bots.yaml."""
        return self.bridge.settings.templates

    def dialogue(self, channel: Channel, aside: str = "") -> Dialogue:
        """The conversation in that channel, or the one that is held `aside` from it under that name."""
        return self._dialogues.setdefault((channel.id, aside), Dialogue(self, channel, aside))

    def asides(self, channel: Channel) -> list[Dialogue]:
        """Every conversation that was held aside from that channel's own so far."""
        return [dialogue for (id, aside), dialogue in self._dialogues.items() if id == channel.id and aside]

    async def receive(self, message: Message) -> Answer | LiveTurn | None:
        """What the bot does about a message: an answer of a command, a model's answer on its way, or nothing.

        Raises: CommandError, whose text is for the person.
        """
        own = self.settings
        if own is not None and not own.permits(message.author, message.channel):
            return None
        # Half characters, which some services let through, can be neither stored nor tokenised.
        message = replace(message, text=message.text.encode("utf-8", "replace").decode())
        settings = self.effective(message.channel)
        language = pick_language(settings.language, message.language, message.text)
        dialogue = self.dialogue(message.channel)
        if (call := parse(expand(message.text, settings.aliases))) is not None:
            return await self._command(call, CommandContext(dialogue, message, language))
        if not self._wanted(message, settings):
            return None
        return dialogue.send(message, language)

    def effective(self, channel: Channel, overrides: Mapping[str, Any] | None = None) -> ChannelSettings:
        """The settings of a channel, with what a conversation has set for itself on top."""
        try:
            return self.bridge.settings.channel(self.name, channel, overrides=overrides)
        except ValidationError as error:
            log.warning(
                "bot %s, channel %s: settings of the conversation are left out: %s", self.name, channel.id, error
            )
            return self.bridge.settings.channel(self.name, channel)

    def model(self, settings: ChannelSettings) -> ModelSettings:
        """How the channel's model is loaded. Raises ConfigError where bots.yaml has it no longer."""
        models = self.bridge.settings.models
        if settings.model not in models:
            known = did_you_mean(settings.model, models)
            raise ConfigError(f"bots.yaml has no model {settings.model!r}{known} /model picks another one")
        return models[settings.model]

    async def _command(self, call: tuple[str, str], context: CommandContext) -> Answer | LiveTurn | None:
        name, argument = call
        command = self.bridge.plugins.chat_commands.get(name)
        if command is None:
            raise context.error(
                "unknown_command", name=name, hint=context.hint(name, self.bridge.plugins.chat_commands)
            )
        if command.terminal_only and context.message.channel.kind != "terminal":
            raise context.error("terminal_only", name=name)
        result = await command.run(context, argument)
        return Answer(result) if isinstance(result, str) else result

    def _wanted(self, message: Message, settings: ChannelSettings) -> bool:
        wanted = self.bridge.plugins.ask("should_reply", message=message, settings=settings)
        if wanted is not None:
            return bool(wanted)
        if message.author.is_bot or settings.reply_to == "never":
            return False
        return settings.reply_to == "always" or message.mentions_bot or message.channel.kind != "group"
