"""What people do in a stand-in Discord: they write, click and invoke, and read what bots answer. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from chatbridge.testing.discord import channels, commands, messages
from chatbridge.testing.discord.content import MAX_CONTENT
from chatbridge.testing.discord.events import tell_typing, told_message
from chatbridge.testing.discord.interactions import AUTOCOMPLETE, COMMAND, COMPONENT, MODAL, Interaction, Interactions
from chatbridge.testing.discord.invocation import clickable, filled_modal, interaction_json, resolved
from chatbridge.testing.discord.state import Bot, Channel, Event, Guild, Json, Message, User, World, walk
from chatbridge.testing.wire.changes import Changes
from chatbridge.testing.wire.forms import Upload
from chatbridge.testing.wire.progress import Progress, Reader, progress_of

T = TypeVar("T")

_BLINK = 100
"""Turns of the event loop that a person needs to see what they click on; a bot in this process knows of it by then."""


class People:
    """The person's side. Where no `author` or `user` is given, it is `person`; where no bot, `bot`.

    Everything takes effect at once; what is awaited is only what bots do.
    """

    guild: Guild
    general: Channel
    person: User
    bot: Bot

    def __init__(self, world: World, interactions: Interactions, changes: Changes) -> None:
        self.world = world
        self._interactions, self._changes = interactions, changes
        self._reader: Reader[Channel, Message] = Reader(changes, self.messages, progress)

    def dm(self, user: User | None = None, bot: Bot | None = None) -> Channel:
        """The private channel of a person and a bot."""
        return channels.open_dm(self.world, user or self.person, (bot or self.bot).user)

    async def say(
        self,
        channel: Channel,
        text: str = "",
        *,
        author: User | None = None,
        reply_to: Message | None = None,
        mention: bool = False,
        files: Sequence[Upload] = (),
    ) -> Message:
        """Write a message; `mention`: with the bot's name before it. A reply mentions whom it is to."""
        author = author or self.person
        body: Json = {"content": f"{self.bot.user.mention} {text}" if mention else text}
        if reply_to is not None:
            body["message_reference"] = {"message_id": str(reply_to.id)}
        described = [{"id": index, "filename": file.name} for index, file in enumerate(files)]
        message = messages.post(self.world, channel, author, body | {"attachments": described}, files)
        await self._let_go()
        return message

    async def edit(self, message: Message, text: str) -> None:
        """Its author changes a message."""
        messages.edit(self.world, message, message.author, {"content": text})
        await self._let_go()

    async def forward(self, message: Message, channel: Channel, *, author: User | None = None) -> Message:
        """Forward a message to another channel."""
        new = messages.forward(self.world, message, channel, author or self.person)
        await self._let_go()
        return new

    async def unfurl(self, message: Message) -> None:
        """A preview appears under a message with a link; bots are told of an update without an edit."""
        messages.unfurl(self.world, message, {"type": "link", "title": "A page"})
        await self._let_go()

    def pings(self, user: User | None = None) -> list[Message]:
        """The messages of bots that have notified a person: by name, by a role of theirs, or with everybody."""
        user, found = user or self.person, []
        for channel in self.world.channels.values():
            member = channel.guild.members.get(user.id) if channel.guild else None
            called = {user.mention, "@everyone", *(f"<@&{role.id}>" for role in (member.roles if member else ()))}
            if member is not None or user in channel.recipients:
                found += [one for one in channel.messages.values() if one.author.bot and called & set(one.notified)]
        return found

    async def delete(self, *found: Message) -> None:
        """The author of messages deletes them."""
        messages.delete(self.world, found, found[0].author)
        await self._let_go()

    async def react(self, message: Message, emoji: str, *, user: User | None = None) -> None:
        """Put a reaction on a message."""
        messages.react(self.world, message, user or self.person, emoji)
        await self._let_go()

    async def type(self, channel: Channel, *, user: User | None = None) -> None:
        """Be seen typing."""
        tell_typing(self.world, channel, user or self.person)
        await self._let_go()

    async def start_thread(
        self, channel: Channel, name: str, *, message: Message | None = None, text: str = "", author: User | None = None
    ) -> Channel:
        """A public thread, from a message or on its own; in a forum a post, which begins with `text`."""
        author = author or self.person
        if text:
            body: Json = {"name": name, "message": {"content": text}}
            thread, _ = channels.start_post(self.world, channel, author, body, ())
        else:
            thread = channels.start_thread(self.world, channel, author, {"name": name, "type": 11}, message)
        await self._let_go()
        return thread

    async def invoke_command(
        self,
        name: str,
        options: Mapping[str, object] | None = None,
        *,
        channel: Channel | None = None,
        user: User | None = None,
        bot: Bot | None = None,
    ) -> Interaction:
        """Use a slash command, `name` with its subcommands. LookupError or ValueError where a client lets no one."""
        return await self._command(COMMAND, name, dict(options or {}), None, channel, user, bot)

    async def autocomplete(
        self,
        name: str,
        option: str,
        typed: str = "",
        *,
        channel: Channel | None = None,
        user: User | None = None,
        bot: Bot | None = None,
    ) -> list[object]:
        """The values that a bot offers to someone who has `typed` so much of an option."""
        found = await self._command(AUTOCOMPLETE, name, {option: typed}, option, channel, user, bot)
        await self.until(lambda: found.kind, what="choices")
        return [choice["value"] for choice in found.choices]

    async def _command(
        self,
        kind: int,
        name: str,
        options: dict[str, object],
        focused: str | None,
        channel: Channel | None,
        user: User | None,
        bot: Bot | None,
    ) -> Interaction:
        channel, bot = channel or self.general, bot or self.bot
        first, *words = name.split()
        command = commands.find(bot, channel.guild.id if channel.guild else None, first, commands.CHAT_INPUT)
        plain, more = resolved(options)
        data: Json = {"id": command["id"], "name": first, "type": commands.CHAT_INPUT, "resolved": more}
        data["options"] = commands.fill_in(command, words, plain, focused)
        return await self._interact(kind, bot, user, channel, data, None)

    async def invoke_on_message(self, name: str, message: Message, *, user: User | None = None) -> Interaction:
        """Use a command of a message's context menu."""
        bot = self.bot
        guild = message.channel.guild.id if message.channel.guild else None
        command = commands.find(bot, guild, name, commands.ON_MESSAGE)
        data: Json = {"id": command["id"], "name": name, "type": commands.ON_MESSAGE, "target_id": str(message.id)}
        shown = told_message(self.world, message, bot, True)
        data["resolved"] = {"messages": {str(message.id): shown}}
        return await self._interact(COMMAND, bot, user, message.channel, data, None)

    async def click(self, message: Message, button: str, *, user: User | None = None) -> Interaction:
        """Press the button with this label or custom id. LookupError where there is none that can be pressed."""
        found = clickable(message, button, {2})
        data = {"custom_id": found["custom_id"], "component_type": 2}
        return await self._interact(COMPONENT, self._author(message), user, message.channel, data, message)

    async def choose(self, message: Message, menu: str, *values: str, user: User | None = None) -> Interaction:
        """Choose from the menu with this custom id (or placeholder)."""
        found = clickable(message, menu, {3})
        offered = [option["value"] for option in found["options"]]
        if unknown := [value for value in values if value not in offered]:
            raise LookupError(f"{menu!r} offers {offered}, not {unknown}")
        data = {"custom_id": found["custom_id"], "component_type": 3, "values": list(values)}
        return await self._interact(COMPONENT, self._author(message), user, message.channel, data, message)

    async def submit(self, shown: Interaction, values: Mapping[str, str]) -> Interaction:
        """Fill in the form that a bot has shown: the value of each field by its custom id."""
        if shown.modal is None:
            raise LookupError("the bot has shown no form")
        data = filled_modal(shown.modal, values)
        return await self._interact(MODAL, shown.bot, shown.user, shown.channel, data, shown.message)

    def _author(self, message: Message) -> Bot:
        bot = self.world.bot_named(message.author)
        assert bot is not None, "a person's message has no components"
        return bot

    async def _interact(
        self, kind: int, bot: Bot, user: User | None, channel: Channel, data: Json, message: Message | None
    ) -> Interaction:
        for _ in range(_BLINK):
            await asyncio.sleep(0)
        new = self._interactions.begin(kind, bot, user or self.person, channel, data, message)
        json = interaction_json(self.world, new)

        def payload(viewer: Bot, intents: int) -> Json | None:
            return json if viewer is bot else None

        self.world.emit(Event("INTERACTION_CREATE", 0, channel.guild or channel, payload))
        await self._let_go()
        return new

    def failed(self, interaction: Interaction) -> bool:
        """Whether the person reads that the application did not respond."""
        return self._interactions.failed(interaction)

    async def answer_to(self, interaction: Interaction, *, within: float = 60) -> Message:
        """The message that a bot answers with, as soon as it is more than `is thinking`."""

        def answered() -> Message | None:
            response = interaction.response
            return response if response is not None and not response.loading else None

        return await self.until(answered, within=within, what="an answer to the interaction")

    async def next_message(self, channel: Channel | None = None, *, within: float = 60) -> Message:
        """The next message of a bot in a channel that was not read before. It may still be edited."""
        return await self._reader.next_message(channel or self.general, within, "a bot's message")

    async def next_answer(self, channel: Channel | None = None, *, within: float = 10) -> Message:
        """The next answer of chatbridge's, as it stays; of several messages the last.

        It is known by its buttons: not by Stop, which is under an answer that is still being written.
        """
        return (await self.next_answer_messages(channel, within=within))[-1]

    async def next_answer_messages(self, channel: Channel | None = None, *, within: float = 10) -> list[Message]:
        """All messages of the next answer, as they stay."""
        return await self._reader.next_answer(channel or self.general, within, "an answer")

    async def until_final(self, message: Message, *, within: float = 10) -> Message:
        """Wait until a message is no preview any more."""
        return await self._reader.until_final(message, within)

    def messages(self, channel: Channel | None = None) -> list[Message]:
        """What bots have written in a channel and not deleted, oldest first; without what is `thinking`."""
        found = sorted((channel or self.general).messages.values(), key=lambda message: message.id)
        return [message for message in found if message.author.bot and not message.loading]

    async def until(self, check: Callable[[], T | None], *, within: float = 60, what: str = "") -> T:
        """Wait for something to come true: `check` is made after each call and each event."""
        return await self._changes.until(check, within=within, what=what)

    async def _let_go(self) -> None:
        self._changes.tell()
        await asyncio.sleep(0)


def progress(message: Message) -> Progress:
    """Whether a message of chatbridge's is a preview, or stays as it is."""
    actions = [str(component.get("custom_id")) for component in walk(message.components) if "custom_id" in component]
    return progress_of(message.text, actions, MAX_CONTENT)
