"""One bot: decides who may ask, what a message asks for and which conversation it belongs to, and hands out answers.

Knows its settings, its people and its conversations; knows no chat service, no engine and no way to a chat.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from chatbridge.bots.attachments import RemoteFile, fetch_files
from chatbridge.bots.command import ChatCommand, CommandContext, expand, parse
from chatbridge.bots.dialogue import Dialogue
from chatbridge.bots.quotas import Quotas
from chatbridge.bots.reply import Notice, ReplyStream
from chatbridge.bots.scopes import conversation_key, in_reply_chains, moved_key
from chatbridge.bots.triggers import BotStreaks, addressed_text, is_addressed, matches
from chatbridge.config.settings import BotSettings, ChannelSettings, ModelSettings, Quota
from chatbridge.errors import CommandError, ConfigError
from chatbridge.store import Messages, Noted, People
from chatbridge.suggest import did_you_mean
from chatbridge.texts import duration, pick_language, say
from chatbridge.types import Author, Channel, Message, Press

if TYPE_CHECKING:
    from chatbridge.bridge import Bridge
    from chatbridge.prompts.template import Template

log = logging.getLogger(__name__)

MOST_DIALOGUES = 1000
"""So many conversations are held in memory at most, besides those in which something is being answered."""

_ASIDE = "/aside/"


class Bot:
    """What a frontend talks to, through `Delivery` or on its own."""

    def __init__(self, bridge: Bridge, name: str) -> None:
        self.bridge = bridge
        self.name = name
        self._dialogues: OrderedDict[str, Dialogue] = OrderedDict()
        self._streaks = BotStreaks()
        self._quotas: Quotas | None = None
        self._draw = random.Random().random

    @property
    def settings(self) -> BotSettings | None:
        """This bot's entry in bots.yaml, if it has one."""
        return self.bridge.settings.bots.get(self.name)

    @property
    def templates(self) -> Mapping[str, Template]:
        """Every template by its name: presets, plugins', and those of bots.yaml."""
        return self.bridge.settings.templates

    @property
    def people(self) -> People:
        """Who was let in, and what answers have cost."""
        return People(self.bridge.store)

    @property
    def messages(self) -> Messages:
        """Which message of a chat is which node of a conversation."""
        return Messages(self.bridge.store)

    @property
    def quotas(self) -> Quotas:
        """What each person has asked lately."""
        if self._quotas is None:
            self._quotas = Quotas(self.name, self.people, self.bridge.clock)
        return self._quotas

    # --- what frontends call -----------------------------------------------------------------------------------

    async def receive(self, message: Message, *, again: bool = False) -> Notice | ReplyStream | None:
        """What the bot does about a message: an answer of a command, a model's answer on its way, or nothing.

        `again`: it was received before the program ended, and so it was within the person's limits.
        Raises: CommandError, whose text is for the person.
        """
        message, replied = await self._recognised(message)
        settings = self.effective(message.channel)
        language = pick_language(settings.language, message.language, message.text)
        if not message.author.is_bot:
            self._streaks.person(message.channel)
        call = parse(expand(message.text, settings.aliases))
        if call is not None and message.author.is_bot and settings.other_bots == "ignore":
            return None
        wanted = message
        if call is None:
            if not self._is_wanted(message, settings):
                return None
            wanted = replace(message, text=addressed_text(message, settings))
        if not await self.permits(message.author, message.channel):
            return await self._door(wanted, language, addressed=call is None or message.channel.kind != "group")
        if call is not None:
            return await self._command(call, await self._context(message, replied, settings, language), again)
        if message.author.is_bot and not self._streaks.allow(message.channel):
            return None
        if message.unreadable:
            return Notice(message.unreadable)
        if not again and (refusal := await self._refusal(message.author, language)) is not None:
            return Notice(refusal) if refusal else None
        chained = replied if in_reply_chains(settings, message.channel) else None
        dialogue = self._dialogue(chained.place if chained else conversation_key(wanted, settings), message.channel)
        behind = chained.node if chained else None
        turn = dialogue.send(wanted, language, behind=behind, follow_up=settings.follow_up)
        turn.author = message.author
        return turn

    async def decide(self, message: Message) -> Message:
        """The message with `wanted` set: whether the bot will answer it, if its author is permitted to ask.

        The decision goes along with the message, and `receive` keeps to it. A frontend that has to do something for
        a message first, such as opening a thread, asks here. Commands are carried out whether they are wanted or not.
        """
        if message.wanted is not None:
            return message
        recognised, _ = await self._recognised(message)
        return replace(message, wanted=self._is_wanted(recognised, self.effective(message.channel)))

    async def bring_files(
        self, message: Message, files: Sequence[RemoteFile], *, max_kib: int, service: str, language: str = ""
    ) -> Message | None:
        """The message with the files that came with it; None where nothing is left that could be answered.

        They are fetched if the message is answered or is a command, and not otherwise (`decide`). Files up to `max_kib`
        are read. Of a message that has nothing but files that can't be read, the person learns why, if it was meant for
        the bot: what people show each other is their own affair. `service`: the chat service's name. `language`: of
        the person, where the message does not tell.
        """
        message = await self.decide(replace(message, attachments=tuple(file.unread for file in files)))
        settings = self.effective(message.channel)
        if not message.wanted and not self._is_command(message, settings):
            return replace(message, attachments=()) if message.text else None
        attachments, unread = await fetch_files(files, max_kib * 1024)
        if message.text or not unread or any(file.data for file in attachments):
            return replace(message, attachments=attachments)
        if message.author.is_bot or not is_addressed(message):
            return None
        told = pick_language(settings.language, message.language or language, "")
        why = "\n".join(say(told, key, service=service, limit=max_kib) for key in unread)
        return replace(message, attachments=(), unreadable=why)

    async def press(self, press: Press, *, again: bool = False) -> Notice | ReplyStream | None:
        """What a button of an answer does, but for "stop", which needs the answer itself. `again`: see `receive`.

        Raises: CommandError, whose text is for the person who pressed it.
        """
        language = self.language(press.channel, press.language)
        if not await self.permits(press.author, press.channel):
            raise CommandError(say(language, "not_permitted"))
        noted = await self.messages.find(self.name, press.channel.id, press.message_id)
        if noted is None:
            raise CommandError(say(language, "button_stale"))
        dialogue = self._dialogue(noted.place, press.channel)
        if press.action == "branch":
            await dialogue.go_to(noted.node)
            return Notice(say(language, "branched"))
        if not again and (refusal := await self._refusal(press.author, language, again=True)) is not None:
            raise CommandError(refusal)
        start = dialogue.go_on if press.action == "continue" else dialogue.regenerate
        turn = start(language, noted.node)
        turn.author = press.author
        return turn

    def going_on(self, message: Message, place: str, node: int) -> ReplyStream:
        """Go on with the unfinished answer at a node, which the end of the program has cut."""
        language = self.language(message.channel, message.language, message.text)
        turn = self._dialogue(place, message.channel).go_on(language, node)
        turn.author = message.author
        return turn

    async def revised(self, message: Message) -> int | None:
        """A message was edited in its chat: the node of its new words, None where they change nothing for the bot."""
        noted = await self.messages.find(self.name, message.channel.id, message.id)
        if noted is None or not await self.permits(message.author, message.channel):
            return None
        node = await self._dialogue(noted.place, message.channel).revise(noted.node, self.reworded(message))
        if node is None:
            return None
        await self.messages.note(self.name, message.channel.id, message.id, node.id)
        return node.id

    async def moved(self, old: str, new: str) -> None:
        """The chat service has given a channel another id: its conversations go on there."""
        await self.bridge.store.move(self.name, lambda place: moved_key(place, old, new))
        for place, dialogue in list(self._dialogues.items()):
            if (there := moved_key(place, old, new)) != place:
                dialogue.place, dialogue.channel = there, replace(dialogue.channel, id=new)
                self._dialogues.setdefault(there, self._dialogues.pop(place))

    def reworded(self, message: Message) -> Message:
        """A message that was edited, as the model is to read it."""
        return replace(message, text=addressed_text(message, self.effective(message.channel)))

    async def permits(self, author: Author, channel: Channel) -> bool:
        """Whether the bot listens to that person in that place."""
        own = self.settings
        if own is None or own.permits(author, channel):
            return True
        if not own.pairing or not own.permits(author, channel, paired=True):
            return False
        return await self.people.paired(self.name, author.id)

    def is_admin(self, author: Author) -> bool:
        """Whether that person may give admin commands."""
        return self.settings is not None and self.settings.admins.names(author)

    @property
    def commands(self) -> list[ChatCommand]:
        """The commands of a chat service's menu, admins' among them."""
        own = self.settings.admin_commands if self.settings is not None else frozenset()
        known = self.bridge.plugins.chat_commands.values()
        return [replace(one, admin=one.admin or one.name in own) for one in known if not one.terminal_only]

    async def completions(self, name: str, message: Message) -> list[str]:
        """What the argument of a command may be, among what begins as the message's text does, or has it inside."""
        command = next((one for one in self.commands if one.name == name), None)
        if command is None or command.complete is None or not await self.permits(message.author, message.channel):
            return []
        context = await self._context(message, None, self.effective(message.channel), "en")
        typed = message.text.lower()
        fitting = [value for value in command.complete(context) if typed in value.lower()]
        return sorted(fitting, key=lambda value: not value.lower().startswith(typed))

    def dialogue(self, channel: Channel, aside: str = "") -> Dialogue:
        """The conversation in that channel, or the one that is held `aside` from it under that name."""
        return self._dialogue(f"{channel.id}{_ASIDE}{aside}" if aside else channel.id, channel)

    def asides(self, channel: Channel) -> list[Dialogue]:
        """Every conversation that was held aside from that channel's own so far."""
        return [one for place, one in self._dialogues.items() if place.startswith(channel.id + _ASIDE)]

    def effective(self, channel: Channel, overrides: Mapping[str, Any] | None = None) -> ChannelSettings:
        """The settings of a channel, with what a conversation has set for itself on top."""
        try:
            return self.bridge.settings.channel(self.name, channel, overrides=overrides)
        except ValidationError as error:
            log.warning(
                "bot %s, channel %s: settings of the conversation are left out: %s", self.name, channel.id, error
            )
            return self.bridge.settings.channel(self.name, channel)

    def language(self, channel: Channel, client: str = "", text: str = "") -> str:
        """The language to speak to somebody there, "en" or "zh"."""
        return pick_language(self.effective(channel).language, client, text)

    def model(self, settings: ChannelSettings) -> ModelSettings:
        """How the channel's model is loaded. Raises ConfigError where bots.yaml has it no longer."""
        models = self.bridge.settings.models
        if settings.model not in models:
            known = did_you_mean(settings.model, models)
            raise ConfigError(f"bots.yaml has no model {settings.model!r}{known} /model picks another one")
        return models[settings.model]

    # --- conversations -----------------------------------------------------------------------------------------

    def _dialogue(self, place: str, channel: Channel) -> Dialogue:
        found = self._dialogues.setdefault(place, Dialogue(self, channel, place))
        self._dialogues.move_to_end(place)
        if len(self._dialogues) > MOST_DIALOGUES:
            oldest = next((key for key, dialogue in self._dialogues.items() if dialogue.idle), place)
            if oldest != place:
                del self._dialogues[oldest]
        return found

    # --- commands ----------------------------------------------------------------------------------------------

    async def _context(
        self, message: Message, replied: Noted | None, settings: ChannelSettings, language: str
    ) -> CommandContext:
        """A command is about the conversation that its message would belong to; without a reply, about the latest."""
        place = conversation_key(message, settings)
        if in_reply_chains(settings, message.channel):
            about = replied or await self.messages.latest(self.name, message.channel.id)
            place = about.place if about is not None else place
        return CommandContext(self._dialogue(place, message.channel), message, language)

    async def _command(
        self, call: tuple[str, str], context: CommandContext, again: bool
    ) -> Notice | ReplyStream | None:
        name, argument = call
        message = context.message
        known = self.bridge.plugins.chat_commands
        command = known.get(name)
        if command is None:
            if message.channel.kind == "group" and not message.mentions_bot:
                return None  # another bot's, as like as not
            raise context.error("unknown_command", name=name, hint=context.hint(name, known))
        if command.terminal_only and message.channel.kind != "terminal":
            raise context.error("terminal_only", name=name)
        for_admins = any(name == one.name and one.admin for one in self.commands)
        if for_admins and message.channel.kind != "terminal" and not self.is_admin(message.author):
            raise context.error("admins_only", name=name)
        if again and not command.repeatable:
            raise context.error("maybe_done", name=name)
        result = await command.run(context, argument)
        if isinstance(result, str):
            return Notice(result)
        if not again and (refusal := await self._refusal(message.author, context.language, again=True)) is not None:
            raise CommandError(refusal)
        result.author = message.author
        return result

    # --- who may ask -------------------------------------------------------------------------------------------

    async def _door(self, message: Message, language: str, *, addressed: bool) -> Notice | None:
        """What somebody gets to hear whom the bot does not listen to: how to be let in, where that is possible."""
        own = self.settings
        if own is None or not own.pairing or not addressed or message.author.is_bot:
            return None
        if not own.permits(message.author, message.channel, paired=True):
            return None
        person = await self.people.ask(self.name, message.author)
        return Notice(say(language, "pairing", code=person.code))

    async def _refusal(self, author: Author, language: str, *, again: bool = False) -> str | None:
        """Why no more answers are given to that person for now, None where they are.

        "" where they were told already, unless they are to be told `again`.
        """
        quota = self.settings.limits if self.settings is not None else Quota()
        if quota == Quota() or self.is_admin(author):
            return None
        met = await self.quotas.admit(author, quota)
        if met is None:
            return None
        if met.told and not again:
            return ""
        return say(language, met.kind, limit=met.limit, wait=duration(met.seconds, language))

    def _is_wanted(self, message: Message, settings: ChannelSettings) -> bool:
        """Whether a message is answered, if that was not decided before."""
        if message.wanted is not None:
            return message.wanted
        wanted: bool | None = self.bridge.plugins.ask("should_reply", message=message, settings=settings)
        return matches(message, settings, self._draw) if wanted is None else bool(wanted)

    def _is_command(self, message: Message, settings: ChannelSettings) -> bool:
        """Whether a message gives a command that is there, and is not another bot's that nobody listens to."""
        call = parse(expand(message.text, settings.aliases))
        heard = not message.author.is_bot or settings.other_bots != "ignore"
        return heard and call is not None and call[0] in self.bridge.plugins.chat_commands

    async def _recognised(self, message: Message) -> tuple[Message, Noted | None]:
        """A message in which everything is storable, and what it replies to, if that is remembered."""
        # Half characters, which some services let through, can be neither stored nor tokenised.
        message = replace(message, text=message.text.encode("utf-8", "replace").decode())
        if message.reply_to is None:
            return message, None
        replied = await self.messages.find(self.name, message.channel.id, message.reply_to)
        if replied is None:
            return message, None
        ours = message.replies_to_bot or replied.role == "assistant"
        return replace(message, replies_to_bot=ours, quoted=""), replied
