"""What people do in a stand-in Telegram: they write, press and block, and read what bots answer. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from chatbridge.testing.telegram import messages, updates
from chatbridge.testing.telegram.payloads import chat_json, member_json, user_json
from chatbridge.testing.telegram.rules import check_size
from chatbridge.testing.telegram.state import (
    CHANNEL,
    GROUP,
    PRIVATE,
    SERVICE,
    SUPERGROUP,
    Bot,
    CallbackQuery,
    Chat,
    Draft,
    InlineQuery,
    Json,
    Message,
    Topic,
    User,
    World,
)
from chatbridge.testing.telegram.text import MAX_CAPTION, MAX_TEXT, clean, utf16_length
from chatbridge.testing.wire.changes import Changes
from chatbridge.testing.wire.forms import Upload
from chatbridge.testing.wire.progress import Progress, Reader, progress_of

T = TypeVar("T")


class People:
    """The person's side. Where no `author` or `user` is given, it is `person`; where no bot, `bot`.

    Everything takes effect at once; what is awaited is only what bots do.
    """

    person: User
    bot: Bot

    def __init__(self, world: World, changes: Changes) -> None:
        self.world = world
        self._changes = changes
        self._reader: Reader[Chat, Message] = Reader(changes, self.messages, progress)

    def private(self, user: User | None = None, bot: Bot | None = None) -> Chat:
        """The private chat of a person and a bot, who has been started."""
        user, bot = user or self.person, bot or self.bot
        known = self.world.private.get((bot.user.id, user.id))
        if known is None:
            known = Chat(user.id, PRIVATE, bot=bot, person=user, username=user.username)
            self.world.private[bot.user.id, user.id] = known
        return known

    async def say(
        self,
        chat: Chat,
        text: str = "",
        *,
        author: User | None = None,
        reply_to: Message | None = None,
        mention: bool = False,
        topic: Topic | None = None,
        file: Upload | None = None,
        kind: str = "document",
        entities: Sequence[Json] = (),
        behind: Chat | None = None,
    ) -> Message:
        """Write a message; `mention`: with the bot's name before it. A `file` is a document, or of another `kind`.

        `behind`: in whose name it is written: a channel of the author's (`add_channel`), or the supergroup itself,
        where they are an admin and choose to be anonymous. No bot learns who the author is then.
        ValueError for what Telegram's clients would not send: too much in one message, in the name of another's.
        """
        self._check_behind(chat, author or self.person, behind)
        said, marks = clean(f"@{self.bot.user.username} {text}" if mention else text, list(entities))
        most = MAX_TEXT if file is None else MAX_CAPTION
        if utf16_length(said) > most or not (said or file):
            raise ValueError(f"a message has 1 to {most} UTF-16 units, not {utf16_length(said)}")
        fields: Json = {"text": said, "entities": marks, "reply_to": reply_to, "sender_chat": behind}
        fields["thread_id"] = topic.id if topic else reply_to.thread_id if reply_to else None
        if file is not None:
            check_size(file, kind)
            fields["file"] = self.world.store(file.name, file.content, file.content_type)
            fields["details"] = {"duration": 1} if kind in ("voice", "audio", "video") else {}
        message = messages.put(self.world, chat, author or self.person, kind if file else "text", **fields)
        await self._let_go()
        return message

    def _check_behind(self, chat: Chat, author: User, behind: Chat | None) -> None:
        if behind is None:
            return
        if chat.kind != SUPERGROUP:
            raise ValueError("people write in another name in supergroups only")
        status = behind.members.get(author.id)
        if status != "creator" and not (behind is chat and status == "administrator"):
            raise ValueError(f"{author.first_name} can't write in the name of {behind.title}")

    async def forward(self, message: Message, chat: Chat, *, author: User | None = None) -> Message:
        """Forward a message to another chat."""
        hidden = message.sender_chat
        origin: Json = {"type": "user", "date": int(message.at), "sender_user": user_json(message.sender)}
        if hidden is not None and hidden.kind == CHANNEL:
            origin = {"type": "channel", "date": int(message.at), "chat": chat_json(hidden), "message_id": message.id}
        elif hidden is not None:
            origin = {"type": "chat", "date": int(message.at), "sender_chat": chat_json(hidden)}
        kept: Json = {name: getattr(message, name) for name in ("text", "entities", "file", "details")}
        if message.kind == SERVICE:
            raise ValueError("what has happened in a chat can't be forwarded")
        new = messages.put(
            self.world, chat, author or self.person, message.kind, origin=message.origin or origin, **kept
        )
        await self._let_go()
        return new

    async def edit(self, message: Message, text: str) -> None:
        """Its author changes a message. ValueError where no client would let them."""
        messages.edited_by_person(self.world, message, *clean(text, []))
        await self._let_go()

    async def touch(self, message: Message) -> None:
        """Something about a message changes that no bot sees; Telegram tells of an edit all the same."""
        messages.edited_by_person(self.world, message, message.text, message.entities)
        await self._let_go()

    def pings(self, user: User | None = None) -> list[Message]:
        """The messages of bots by which a person was called: mentioned, that is, in a chat that they are in."""
        everywhere = [*self.world.groups.values(), *self.world.private.values()]
        found = [one for chat in everywhere for one in chat.messages.values() if one.sender.is_bot]
        return [one for one in found if (user or self.person) in one.notified]

    async def delete(self, *found: Message) -> None:
        """People delete messages; Telegram tells no bot of it."""
        for message in found:
            messages.gone(message)
        await self._let_go()

    async def react(self, message: Message, *emoji: str, user: User | None = None) -> None:
        """Put reactions on a message, in place of those before."""
        user = user or self.person
        new: list[Json] = [{"type": "emoji", "emoji": one} for one in emoji]
        json: Json = {
            "chat": chat_json(message.chat),
            "message_id": message.id,
            "user": user_json(user),
            "date": int(self.world.clock()),
            "old_reaction": message.reactions.get(user.id, []),
            "new_reaction": new,
        }
        message.reactions[user.id] = new
        for bot in self._bots_in(message.chat, administrators=True):
            updates.tell(self.world, bot, "message_reaction", json)
        await self._let_go()

    async def press(self, message: Message, button: str, *, user: User | None = None) -> CallbackQuery:
        """Press the inline button with this text or data. LookupError where there is none."""
        buttons = [one for row in message.keyboard for one in row]
        for one in buttons:
            if button in (one["text"], one.get("callback_data")) and "callback_data" in one:
                bot = self._bot_of(message.sender)
                query = messages.press(self.world, bot, user or self.person, message, one["callback_data"])
                await self._let_go()
                return query
        raise LookupError(f"{button!r} can't be pressed; the buttons are: {[one['text'] for one in buttons]}")

    async def ask_inline(self, text: str, *, user: User | None = None, bot: Bot | None = None) -> InlineQuery:
        """Ask a bot from any chat, by its name."""
        query = messages.ask_inline(self.world, bot or self.bot, user or self.person, text)
        await self._let_go()
        return query

    async def stop(self, chat: Chat | None = None) -> None:
        """Press the button that stops what is being written. LookupError where there is none."""
        messages.stop_draft(self.world, chat or self.private())
        await self._let_go()

    def draft(self, chat: Chat | None = None) -> Draft | None:
        """What is being written before the person's eyes."""
        return messages.current_draft(self.world, chat or self.private())

    async def block(self, *, user: User | None = None, bot: Bot | None = None, unblock: bool = False) -> None:
        """Block a bot, or take it back."""
        user, bot = user or self.person, bot or self.bot
        chat = self.private(user, bot)
        (bot.blocked_by.discard if unblock else bot.blocked_by.add)(user.id)
        old, new = ("kicked", "member") if unblock else ("member", "kicked")
        states = member_json(chat, bot.user, old), member_json(chat, bot.user, new)
        updates.tell_membership(self.world, chat, bot, user, *states)
        await self._let_go()

    async def let_in(self, group: Chat, user: User, *, status: str = "member") -> None:
        """Let a person or a bot into a group (`administrator`, `creator`), or put one out (`left`, `kicked`)."""
        old = group.members.get(user.id, "left")
        if status in ("left", "kicked"):
            group.members.pop(user.id, None)
        else:
            group.members[user.id] = status
        for bot in self.world.bots.values():
            if bot.user is user:
                states = member_json(group, user, old), member_json(group, user, status)
                updates.tell_membership(self.world, group, bot, self.person, *states)
        await self._let_go()

    async def start_topic(self, forum: Chat, name: str, *, user: User | None = None) -> Topic:
        """A new topic of a forum."""
        about: Json = {"name": name, "icon_color": messages.ICON_COLOR}
        topic = messages.start_topic(self.world, forum, user or self.person, about)
        await self._let_go()
        return topic

    async def upgrade(self, group: Chat) -> Chat:
        """Make a supergroup of a group: it gets another id, and the old one is refused from now on."""
        new = Chat(-(10**12) - self.world.new_id(), SUPERGROUP, group.title, members=dict(group.members))
        self.world.groups[new.id] = new
        messages.put(self.world, group, self.person, SERVICE, details={"migrate_to_chat_id": new.id})
        messages.put(self.world, new, self.person, SERVICE, details={"migrate_from_chat_id": group.id})
        group.migrated_to = new.id
        await self._let_go()
        return new

    def add_group(self, title: str, *members: User, forum: bool = False, basic: bool = False) -> Chat:
        """A supergroup (or a `basic` group) of these people and bots; the first person made it."""
        number = -self.world.new_id() if basic else -(10**12) - self.world.new_id()
        group = Chat(number, GROUP if basic else SUPERGROUP, title, forum=forum)
        people = members or (self.person, self.bot.user)
        group.members = {user.id: "member" for user in people}
        group.members[people[0].id] = "creator"
        group.next_message = 2  # the first tells that the group was made; a forum's general topic goes by its id
        self.world.groups[group.id] = group
        return group

    def add_channel(self, title: str, *, owner: User | None = None, username: str | None = None) -> Chat:
        """A channel of somebody's, in whose name they may write in supergroups."""
        owner = owner or self.person
        return Chat(-(10**12) - self.world.new_id(), CHANNEL, title, username=username, members={owner.id: "creator"})

    def _bot_of(self, user: User) -> Bot:
        found = next((bot for bot in self.world.bots.values() if bot.user is user), None)
        if found is None:
            raise LookupError(f"{user.first_name} is no bot: their messages have no buttons")
        return found

    def _bots_in(self, chat: Chat, *, administrators: bool) -> list[Bot]:
        if chat.bot is not None:
            return [chat.bot]
        known = (bot for bot in self.world.bots.values() if bot.user.id in chat.members)
        return [bot for bot in known if not administrators or chat.members[bot.user.id] == "administrator"]

    async def next_message(self, chat: Chat | None = None, *, within: float = 60) -> Message:
        """The next message of a bot in a chat (or in the person's) that was not read before. It may still be edited."""
        return await self._reader.next_message(chat or self.private(), within, "a bot's message")

    async def next_answer(self, chat: Chat | None = None, *, within: float = 10) -> Message:
        """The next answer of chatbridge's, as it stays; of several messages the last.

        It is known by its buttons: not by Stop, which is under an answer that is still being written.
        """
        return (await self.next_answer_messages(chat, within=within))[-1]

    async def next_answer_messages(self, chat: Chat | None = None, *, within: float = 10) -> list[Message]:
        """All messages of the next answer, as they stay."""
        return await self._reader.next_answer(chat or self.private(), within, "an answer")

    async def until_final(self, message: Message, *, within: float = 10) -> Message:
        """Wait until a message is no preview any more."""
        return await self._reader.until_final(message, within)

    def messages(self, chat: Chat | None = None) -> list[Message]:
        """What bots have written in a chat and not deleted, oldest first."""
        found = sorted((chat or self.private()).messages.values(), key=lambda message: message.id)
        return [message for message in found if message.sender.is_bot and message.kind != SERVICE]

    async def until(self, check: Callable[[], T | None], *, within: float = 60, what: str = "") -> T:
        """Wait for something to come true: `check` is made after each call and each update."""
        return await self._changes.until(check, within=within, what=what)

    async def _let_go(self) -> None:
        self._changes.tell()
        await asyncio.sleep(0)


def progress(message: Message) -> Progress:
    """Whether a message of chatbridge's is a preview, or stays as it is."""
    actions = [str(button.get("callback_data")) for row in message.keyboard for button in row]
    return progress_of(message.text, actions, MAX_TEXT)
