"""One bot: decides who may ask, what a message asks for and which conversation it belongs to, and hands out answers.

Knows its settings, its people and its conversations; knows no chat service, no engine and no way to a chat.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from chatbridge.bots.attachments import Downloads, RemoteFile, bounded, is_short, with_files
from chatbridge.bots.command import Ask, ChatCommand, CommandContext, expand, parse
from chatbridge.bots.dialogue import Dialogue
from chatbridge.bots.merged import MergedSettings
from chatbridge.bots.permissions import Permissions, asker_of
from chatbridge.bots.quotas import Reservation, estimate
from chatbridge.bots.reply import Notice, ReplyContext, ReplyStream
from chatbridge.bots.scopes import SIDE, conversation_key, in_reply_chains, moved_key, owner_of
from chatbridge.bots.triggers import BotStreaks, addressed_text, matches
from chatbridge.config.settings import BotSettings, ChannelSettings, ModelSettings
from chatbridge.errors import CommandError, ConfigError
from chatbridge.store import MessageIndex, MessageRef
from chatbridge.suggest import did_you_mean
from chatbridge.texts import pick_language, say
from chatbridge.types import Author, Channel, Message, Press

if TYPE_CHECKING:
    from chatbridge.bots.services import Services
    from chatbridge.prompts.template import Template

log = logging.getLogger(__name__)

MAX_DIALOGUES = 1000
"""So many conversations are held in memory at most, besides those in which something is being answered."""

_COPIED = frozenset({"regenerate", "continue", "branch"})
"""What a button does in a conversation of one's own, where the answer is in another person's."""


class Bot:
    """What a frontend talks to, through `Delivery` or on its own."""

    def __init__(self, services: Services, name: str) -> None:
        self.services = services
        self.name = name
        about = lambda: self.settings, self._is_admin_command, self._open_to_all
        self.permissions = Permissions(name, *about, services.store, services.clock, services.monotonic)
        self.message_index = MessageIndex(services.store)
        """Which message of a chat is which node of a conversation."""
        self._dialogues: OrderedDict[str, Dialogue] = OrderedDict()
        self._merged = MergedSettings(name)
        self._streaks = BotStreaks()
        self._rng = random.Random()

    @property
    def settings(self) -> BotSettings | None:
        """This bot's entry in bots.yaml, if it has one."""
        return self.services.settings.bots.get(self.name)

    @property
    def templates(self) -> Mapping[str, Template]:
        """Every template by its name: presets, plugins', and those of bots.yaml."""
        return self.services.settings.templates

    # --- what frontends call -----------------------------------------------------------------------------------

    def context(self, asked: Message | Press) -> ReplyContext:
        """What applies to a message or a press, by what bots.yaml says now."""
        merged_from, settings = self.services.settings, self.effective(asked.channel)
        text = asked.text if isinstance(asked, Message) else ""
        language = pick_language(settings.language, asked.language, text)
        return ReplyContext(settings, language, merged_from)

    async def receive(
        self,
        message: Message,
        *,
        redelivered: bool = False,
        context: ReplyContext | None = None,
        ask: Ask | None = None,
    ) -> Notice | ReplyStream | None:
        """What the bot does about a message: a notice, a model's reply on its way, or nothing.

        `redelivered`: it was received before the program ended, and so it was within the person's limits.
        `context`: what applies to it, where the caller has asked for that already. `ask`: how the person who has typed
        it at a terminal just now can be asked something; without it, commands that touch files are refused.
        Raises: CommandError, whose text is for the person.
        """
        message, replied = await self._recognised(self.bounded(message))
        context = context or self.context(message)
        settings = context.settings
        if not message.author.is_bot and self.permissions.listens(message.author, message.channel):
            self._streaks.person(message.channel)
        call = parse(expand(message.text, settings.aliases))
        if call is not None and message.author.is_bot and settings.other_bots == "ignore":
            return None
        wanted = message
        if call is None:
            if not self._is_wanted(message, settings):
                return None
            wanted = replace(message, text=addressed_text(message, settings))
        verdict = await self.permissions.may(message.author, message.channel, call[0] if call is not None else "")
        if verdict.reason == "not_permitted":
            if not verdict.pairable or (call is not None and message.channel.kind == "group"):
                return None  # a command for another bot, as like as not
            return await self.permissions.pairing_notice(message.author, context.language)
        if not verdict.allowed:
            raise CommandError(verdict.say(context.language))
        if call is not None and message.unreadable:
            return Notice(message.unreadable)
        if call is not None:
            about = await self._command_context(message, replied, context)
            if parse(message.text) == call:  # by an alias the person may not know what they say
                about = replace(about, ask=ask)
            return await self._command(call, about, context, redelivered)
        return await self._ask(wanted, replied, context, redelivered)

    async def _ask(
        self, message: Message, replied: MessageRef | None, context: ReplyContext, redelivered: bool
    ) -> Notice | ReplyStream | None:
        """Ask the model, where nothing is in the way."""
        if message.author.is_bot and not self._streaks.allow(message.channel):
            return None
        if message.unreadable:
            return Notice(message.unreadable)
        chained = replied if in_reply_chains(context.settings, message.channel) else None
        key = chained.key if chained else conversation_key(message, context.settings)
        dialogue = self._dialogue(key, message.channel)
        reservation = await self._reserve(message, context, dialogue, redelivered)
        if isinstance(reservation, str):
            return Notice(reservation) if reservation else None
        over = None
        if context.settings.follow_up == "interrupt":
            over = await self.permissions.stoppable(message.author, message.channel, dialogue.askers)
        return dialogue.send(
            message,
            context.language,
            parent=chained.node if chained else None,
            follow_up=context.settings.follow_up,
            over=over,
            author=message.author,
            context=context,
            reservation=reservation,
        )

    async def decide(self, message: Message) -> Message:
        """The message with `wanted` set: whether the bot will answer it, if its author is permitted to ask.

        The decision goes along with the message, and `receive` keeps to it. A frontend that has to do something for
        a message first, such as opening a thread, asks here. Commands are carried out whether they are wanted or not.
        """
        return await self._decided(message, self.effective(message.channel))

    def bounded(self, message: Message) -> Message:
        """The message with no more in it than the channel's `max_text`, which is what is stored and read of it.

        Of files and of what it quotes the beginnings are left. Where its own words alone are more, it is not answered,
        and the person learns why. What is bounded already stays as it is.
        """
        if is_short(message):
            return message
        settings = self.effective(message.channel)
        return bounded(message, settings.max_text, settings.language)

    async def bring_files(
        self, message: Message, files: Sequence[RemoteFile], downloads: Downloads, *, language: str = ""
    ) -> Message | None:
        """The message with what stands for its files; None where nothing is left that could be answered. Soon done.

        If the message is answered or is a command (`decide`), delivery fetches them once it is stored and its turn has
        come. Of a message that has nothing but files that can't be read, the person learns why, if it was meant for
        the bot: what people show each other is their own affair. `language`: of the person, where the message does not
        tell.
        """
        settings = self.effective(message.channel)
        message = await self._decided(replace(message, attachments=tuple(file.unread for file in files)), settings)
        if not message.wanted and not self._is_command(message, settings):
            return replace(message, attachments=()) if message.text else None
        if not message.text:
            message = replace(message, language=message.language or language)
        return with_files(message, *downloads.announced(files), downloads, settings.language)

    async def fetch_files(self, message: Message, downloads: Downloads) -> Message | None:
        """A message from `bring_files` with the contents of its files; None where nothing is left to be answered."""
        if not any(file.source for file in message.attachments):
            return message
        if not await self.permits(message.author, message.channel):
            return replace(message, attachments=tuple(replace(file, source="") for file in message.attachments))
        fetched = await downloads.fetched(message.attachments)
        whole = with_files(message, *fetched, downloads, self.effective(message.channel).language)
        return whole and self.bounded(whole)

    async def press(
        self, press: Press, *, redelivered: bool = False, context: ReplyContext | None = None
    ) -> Notice | ReplyStream | None:
        """What a button of an answer does, but for "stop", which needs the answer itself. For the rest see `receive`.

        Raises: CommandError, whose text is for the person who pressed it.
        """
        context = context or self.context(press)
        language, channel = context.language, press.channel
        noted = await self.message_index.find(self.name, channel.id, press.message_id)
        key, asker = "", ""
        if noted is not None:
            key = noted.key
            if press.action in _COPIED and owner_of(key, channel) not in (None, press.author.id):
                key = f"{channel.id}/{press.author.id}"  # another person's conversation is left as it is
            else:
                asker = await self._dialogue(key, channel).asker_of(await self.services.store.node(noted.node))
        await self.require(press.author, channel, press.action, language, asker=asker)
        if noted is None:
            raise CommandError(say(language, "button_stale"))
        dialogue = self._dialogue(key, channel)
        if press.action == "branch":
            await dialogue.go_to(await dialogue.adopted(noted.node, press.author.id))
            return Notice(say(language, "branched"))
        reservation = await self._reserve(press, context, dialogue, redelivered, repeat=True)
        if isinstance(reservation, str):
            raise CommandError(reservation)
        start = dialogue.go_on if press.action == "continue" else dialogue.regenerate
        return start(language, noted.node).on_behalf_of(press.author, reservation)

    async def stop(self, press: Press, reply: ReplyStream | None) -> str:
        """End the reply that a message with the button "stop" shows, if there is one that may be ended by who pressed.

        Returns what to say to that person, "" where that shows.
        """
        language = self.context(press).language
        asker = asker_of(reply.author) if reply is not None else ""
        try:
            await self.require(press.author, press.channel, press.action, language, asker=asker)
        except CommandError as refusal:
            return str(refusal)
        if reply is None:
            return say(language, "nothing_to_stop")
        reply.stop()
        return ""

    def going_on(self, message: Message, key: str, node: int) -> ReplyStream:
        """Go on with the answer at a node of the conversation `key`, which the end of the program has cut."""
        context, dialogue = self.context(message), self._dialogue(key, message.channel)
        reservation = self.permissions.take(
            message.author, message.channel, estimate(message, context.settings, dialogue.last_prompt)
        )
        return dialogue.go_on(context.language, node).on_behalf_of(message.author, reservation)

    async def revised(self, message: Message) -> int | None:
        """A message was edited in its chat: the node of its new words, None where they change nothing for the bot."""
        noted = await self.message_index.find(self.name, message.channel.id, message.id)
        if noted is None or not await self.permits(message.author, message.channel):
            return None
        message, _ = await self._recognised(message)  # so that it quotes no more than it did when it came
        node = await self._dialogue(noted.key, message.channel).revise(noted.node, self.reworded(message))
        if node is None:
            return None
        await self.message_index.note(self.name, message.channel.id, message.id, node.id)
        return node.id

    async def moved(self, old: str, new: str) -> None:
        """The chat service has given a channel another id: its conversations go on there."""
        await self.services.store.move(self.name, lambda key: moved_key(key, old, new), begins=old)
        for key, dialogue in list(self._dialogues.items()):
            if (there := moved_key(key, old, new)) != key:
                dialogue.key, dialogue.channel = there, replace(dialogue.channel, id=new)
                self._dialogues.setdefault(there, self._dialogues.pop(key))

    def reworded(self, message: Message) -> Message:
        """A message that was edited, as the model is to read it."""
        return replace(message, text=addressed_text(message, self.effective(message.channel)))

    async def permits(self, author: Author, channel: Channel) -> bool:
        """Whether the bot listens to that person in that place."""
        return (await self.permissions.may(author, channel)).allowed

    async def require(self, author: Author, channel: Channel, action: str, language: str, *, asker: str = "") -> None:
        """Raises CommandError, with the reason, where the bot does not do that for that person there.

        `action`: the name of a command, or of a button. `asker`: whose answer it is about, by id.
        """
        verdict = await self.permissions.may(author, channel, action, asker=asker)
        if not verdict.allowed:
            raise CommandError(verdict.say(language))

    def _open_to_all(self, channel: Channel) -> bool:
        return self.effective(channel).change_answers == "everyone"

    def is_admin(self, author: Author) -> bool:
        """Whether that person may give admin commands."""
        return self.permissions.is_admin(author)

    @property
    def commands(self) -> list[ChatCommand]:
        """The commands of a chat service's menu, admins' among them, as they are in private chats."""
        return self.commands_in("private")

    def commands_in(self, kind: Literal["private", "group", "terminal"]) -> list[ChatCommand]:
        """The commands of a menu in channels of that kind, with `admin` as it is there."""
        known = self.services.hooks.chat_commands.values()
        for_admins = self.permissions.for_admins
        return [replace(one, admin=for_admins(one.name, kind)) for one in known if not one.terminal_only]

    async def completions(self, name: str, message: Message) -> list[str]:
        """What the argument of a command may be, among what begins as the message's text does, or has it inside."""
        command = next((one for one in self.commands if one.name == name), None)
        if command is None or command.complete is None:
            return []
        if not (await self.permissions.may(message.author, message.channel, name)).allowed:
            return []
        context = await self._command_context(message, None, self.context(message))
        typed = message.text.lower()
        fitting = [value for value in command.complete(context) if typed in value.lower()]
        return sorted(fitting, key=lambda value: not value.lower().startswith(typed))

    def dialogue(self, channel: Channel, side: str = "") -> Dialogue:
        """The conversation in that channel, or the side conversation of that name beside it."""
        return self._dialogue(f"{channel.id}{SIDE}{side}" if side else channel.id, channel)

    def side_dialogues(self, channel: Channel) -> list[Dialogue]:
        """Every side conversation of that channel so far."""
        return [one for key, one in self._dialogues.items() if key.startswith(channel.id + SIDE)]

    def effective(self, channel: Channel, overrides: Mapping[str, Any] | None = None) -> ChannelSettings:
        """The settings of a channel, with what a conversation has set for itself on top."""
        return self._merged.of(self.services.settings, channel, overrides)

    def language(self, channel: Channel, client: str = "", text: str = "") -> str:
        """The language to speak to somebody there, "en" or "zh"."""
        return pick_language(self.effective(channel).language, client, text)

    def model(self, settings: ChannelSettings) -> ModelSettings:
        """How the channel's model is loaded. Raises ConfigError where bots.yaml has it no longer."""
        models = self.services.settings.models
        if settings.model not in models:
            known = did_you_mean(settings.model, models) or ";"
            raise ConfigError(f"bots.yaml has no model {settings.model!r}{known} /model picks another one")
        return models[settings.model]

    # --- conversations -----------------------------------------------------------------------------------------

    def _dialogue(self, key: str, channel: Channel) -> Dialogue:
        found = self._dialogues.get(key)
        if found is None:
            found = self._dialogues[key] = Dialogue(self, channel, key)
        self._dialogues.move_to_end(key)
        if len(self._dialogues) > MAX_DIALOGUES:
            oldest = next((key for key, dialogue in self._dialogues.items() if not dialogue.busy), key)
            if oldest != key:
                del self._dialogues[oldest]
        return found

    def uses(self, key: str) -> bool:
        """Whether something is being answered in the conversation under that key, or waits for it."""
        return (found := self._dialogues.get(key)) is not None and found.busy

    # --- commands ----------------------------------------------------------------------------------------------

    async def _command_context(
        self, message: Message, replied: MessageRef | None, context: ReplyContext
    ) -> CommandContext:
        """A command is about the conversation that its message would belong to; without a reply, about the latest."""
        key = conversation_key(message, context.settings)
        if in_reply_chains(context.settings, message.channel):
            about = replied or await self.message_index.latest(self.name, message.channel.id)
            key = about.key if about is not None else key
        return CommandContext(self._dialogue(key, message.channel), message, context.language)

    async def _command(
        self, call: tuple[str, str], context: CommandContext, applies: ReplyContext, redelivered: bool
    ) -> Notice | ReplyStream | None:
        name, argument = call
        message = context.message
        known = self.services.hooks.chat_commands
        command = known.get(name)
        if command is None:
            if message.channel.kind == "group" and not message.mentions_bot:
                return None  # another bot's, as like as not
            hint = context.hint(f"/{name}", [f"/{one}" for one in known])
            raise context.error("unknown_command", name=name, hint=hint)
        command.check(context)
        if redelivered and not command.repeatable:
            raise context.error("maybe_done", name=name)
        result = await command.run(context, argument)
        if isinstance(result, str):
            return Notice(result)
        reservation = await self._reserve(message, applies, context.dialogue, redelivered, repeat=True)
        if isinstance(reservation, str):
            raise CommandError(reservation)
        return result.on_behalf_of(message.author, reservation)

    # --- what is answered --------------------------------------------------------------------------------------

    async def _reserve(
        self,
        asked: Message | Press,
        context: ReplyContext,
        dialogue: Dialogue,
        redelivered: bool,
        *,
        repeat: bool = False,
    ) -> Reservation | str:
        """What an answer may cost, reserved, or the notice of the quota that it would exceed ("" if that was shown).

        What the end of the program interrupted was within the quota when it was asked.
        """
        tokens = estimate(asked, context.settings, dialogue.last_prompt)
        if redelivered:
            return self.permissions.take(asked.author, asked.channel, tokens)
        return await self.permissions.reserve(asked.author, asked.channel, tokens, context.language, repeat=repeat)

    async def _decided(self, message: Message, settings: ChannelSettings) -> Message:
        if message.wanted is not None:
            return message
        recognised, _ = await self._recognised(message)
        return replace(message, wanted=self._is_wanted(recognised, settings))

    def _is_wanted(self, message: Message, settings: ChannelSettings) -> bool:
        """Whether a message is answered, if that was not decided before."""
        if message.wanted is not None:
            return message.wanted
        wanted: bool | None = self.services.hooks.ask("should_reply", message=message, settings=settings)
        return matches(message, settings, self._rng.random) if wanted is None else bool(wanted)

    def _is_admin_command(self, name: str) -> bool:
        known = self.services.hooks.chat_commands
        return name in known and known[name].admin

    def _is_command(self, message: Message, settings: ChannelSettings) -> bool:
        """Whether a message gives a command that is there, and is not another bot's that nobody listens to."""
        call = parse(expand(message.text, settings.aliases))
        heard = not message.author.is_bot or settings.other_bots != "ignore"
        return heard and call is not None and call[0] in self.services.hooks.chat_commands

    async def _recognised(self, message: Message) -> tuple[Message, MessageRef | None]:
        """A message in which everything is storable, and what it replies to, if that is remembered."""
        # Half characters, which some services let through, can be neither stored nor tokenised.
        message = replace(message, text=message.text.encode("utf-8", "replace").decode())
        if message.reply_to is None:
            return message, None
        replied = await self.message_index.find(self.name, message.channel.id, message.reply_to)
        if replied is None:
            return message, None
        ours = message.replies_to_bot or replied.role == "assistant"
        return replace(message, replies_to_bot=ours, quoted=""), replied
