"""What a stand-in Telegram holds: people, bots, chats, topics, messages, files. Knows no rule and no socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from chatbridge.testing.wire.clock import Clock

Json: TypeAlias = dict[str, Any]

PRIVATE, GROUP, SUPERGROUP, CHANNEL = "private", "group", "supergroup", "channel"
SERVICE = "service"
"""The kind of messages that tell what has happened in a chat."""


class Refusal(Exception):
    """A call that Telegram refuses: `code` is also its HTTP status; `parameters` may say how to do better."""

    def __init__(self, code: int, description: str, parameters: Json | None = None) -> None:
        super().__init__(description)
        self.code, self.description, self.parameters = code, description, parameters

    @property
    def body(self) -> Json:
        """The JSON that Telegram answers with."""
        more = {"parameters": self.parameters} if self.parameters else {}
        return {"ok": False, "error_code": self.code, "description": self.description, **more}


def bad_request(text: str) -> Refusal:
    """Refusal 400."""
    return Refusal(400, f"Bad Request: {text}")


@dataclass(slots=True, eq=False)
class User:
    """A person, or a bot's account."""

    id: int
    first_name: str
    username: str | None = None
    is_bot: bool = False
    language: str = "en"


@dataclass(slots=True, eq=False)
class Bot:
    """A bot: its token, its switches, what it is to be told, and how."""

    user: User
    token: str
    privacy: bool = True
    """Whether it hears in groups only commands, mentions, and replies to it."""
    inline: bool = False
    """Whether people may ask it from any chat, by its name."""
    updates: list[Json] = field(default_factory=list)
    """What it was not told yet, or has not confirmed."""
    allowed: frozenset[str] | None = None
    """The kinds of updates it asked for (None: the usual ones); it stays until it asks for others."""
    next_update: int = 1
    webhook: Webhook | None = None
    commands: dict[str, list[Json]] = field(default_factory=dict)
    blocked_by: set[int] = field(default_factory=set)
    next_message: int = 1
    """In private chats, ids count through all of a bot's chats."""


@dataclass(slots=True, eq=False)
class Webhook:
    """Where updates are posted to."""

    url: str
    secret: str = ""
    error: str = ""
    error_at: float = 0


@dataclass(slots=True, eq=False)
class Topic:
    """A topic of a forum."""

    id: int
    name: str
    closed: bool = False


@dataclass(slots=True, eq=False)
class Draft:
    """A message being written before a person's eyes; gone 30 s after its last change."""

    id: int
    text: str
    at: float
    can_stop: bool = False
    thread_id: int | None = None
    history: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Chat:
    """A private chat of one person and one `bot` (whose id is the person's), a group, or somebody's channel."""

    id: int
    kind: str
    title: str = ""
    bot: Bot | None = None
    person: User | None = None
    username: str | None = None
    members: dict[int, str] = field(default_factory=dict)
    """The status of those who are in a group (`member`, `administrator`, `creator`), by id."""
    forum: bool = False
    topics: dict[int, Topic] = field(default_factory=dict)
    messages: dict[int, Message] = field(default_factory=dict)
    draft: Draft | None = None
    next_message: int = 1
    migrated_to: int | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A file that was sent."""

    id: str
    name: str
    content: bytes
    content_type: str

    @property
    def path(self) -> str:
        """Where it can be downloaded."""
        return f"files/{self.id}/{self.name}"


@dataclass(slots=True, eq=False)
class Message:
    """A message as it now is; `history` has what its text was before each edit, and `edited` when the last one was."""

    id: int
    chat: Chat
    sender: User
    at: float
    text: str = ""
    entities: list[Json] = field(default_factory=list)
    kind: str = "text"
    """`text`, `rich`, `service`, or the kind of its file: `document`, `photo`, `voice`, `audio`, `video`."""
    file: File | None = None
    details: Json = field(default_factory=dict)
    """What Telegram tells besides: a voice message's duration, a new topic."""
    reply_to: Message | None = None
    thread_id: int | None = None
    keyboard: list[list[Json]] = field(default_factory=list)
    """Inline buttons, in rows."""
    silent: bool = False
    edited: float | None = None
    deleted: bool = False
    history: list[str] = field(default_factory=list)
    reactions: dict[int, list[Json]] = field(default_factory=dict)
    sender_chat: Chat | None = None
    """In whose name it was written: a channel, or the group itself, where its admin is anonymous."""
    origin: Json | None = None
    """Where it was forwarded from, as Telegram tells it."""
    notified: list[User] = field(default_factory=list)
    """Whom it has called by mentioning them, edits among it."""

    @property
    def pings(self) -> list[str]:
        """Whom it has called by mentioning them, by name."""
        return [user.first_name for user in self.notified]


@dataclass(slots=True, eq=False)
class CallbackQuery:
    """A person's press of a button, and how the bot answered it."""

    id: str
    bot: Bot
    user: User
    message: Message
    data: str
    at: float
    answered: bool = False
    text: str = ""
    alert: bool = False


@dataclass(slots=True, eq=False)
class InlineQuery:
    """A question to a bot from any chat, and the results it was answered with (None: not yet)."""

    id: str
    bot: Bot
    user: User
    text: str
    at: float
    results: list[Json] | None = None


class World:
    """Everything there is. `tell` is called with each update that a bot gets."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.users: dict[int, User] = {}
        self.bots: dict[str, Bot] = {}
        self.groups: dict[int, Chat] = {}
        self.private: dict[tuple[int, int], Chat] = {}
        """By the bot's id and the person's."""
        self.files: dict[str, File] = {}
        self.queries: dict[str, CallbackQuery] = {}
        self.inline_queries: dict[str, InlineQuery] = {}
        self.listeners: list[Callable[[Bot], None]] = []
        self._last = 1000

    def new_id(self) -> int:
        """A number that nothing has yet."""
        self._last += 1
        return self._last

    def chat(self, bot: Bot, number: object) -> Chat:
        """The chat that a bot means by an id or `@name`, if it may write there; else the refusal."""
        if number in (None, ""):
            raise bad_request("chat_id is empty")
        if isinstance(number, str) and number.startswith("@"):
            named = (chat for chat in self.groups.values() if chat.username == number[1:])
            chat = next(named, None)
        else:
            try:
                wanted = int(str(number))
            except ValueError:
                raise bad_request("chat not found") from None
            chat = self.groups.get(wanted) or self.private.get((bot.user.id, wanted))
        if chat is None:
            raise bad_request("chat not found")
        if chat.migrated_to is not None:
            text = "Bad Request: group chat was upgraded to a supergroup chat"
            raise Refusal(400, text, {"migrate_to_chat_id": chat.migrated_to})
        if chat.person is not None and chat.person.id in bot.blocked_by:
            raise Refusal(403, "Forbidden: bot was blocked by the user")
        if chat.person is None and bot.user.id not in chat.members:
            raise Refusal(403, f"Forbidden: bot was kicked from the {chat.kind} chat")
        return chat

    def store(self, name: str, content: bytes, content_type: str) -> File:
        """Keep a file."""
        file = File(f"file{self.new_id()}", name or "file", content, content_type)
        self.files[file.id] = file
        return file
