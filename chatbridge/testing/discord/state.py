"""What a stand-in Discord holds: people, bots, guilds, channels, messages. Knows no JSON, no rule and no socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from chatbridge.testing.wire.clock import Clock

EPOCH = 1_420_070_400_000
"""The first millisecond of 2015, from which ids count."""

TEXT, DM, VOICE, CATEGORY, FORUM = 0, 1, 2, 4, 15
PUBLIC_THREAD, PRIVATE_THREAD = 11, 12
EPHEMERAL, LOADING, COMPONENTS_V2 = 1 << 6, 1 << 7, 1 << 15
HAS_SNAPSHOT = 1 << 14

Json: TypeAlias = dict[str, Any]


class Refusal(Exception):
    """A call that Discord refuses, with the status and the code it gives; `errors` names the fields at fault."""

    def __init__(self, status: int, code: int, message: str, errors: Json | None = None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message, self.errors = status, code, message, errors

    @property
    def body(self) -> Json:
        """The JSON that Discord answers with."""
        errors = {} if self.errors is None else {"errors": self.errors}
        return {"message": self.message, "code": self.code, **errors}


@dataclass(slots=True, eq=False)
class User:
    """A person, or a bot's account. One who does not `accept_dms` can't be written to in private."""

    id: int
    name: str
    bot: bool = False
    global_name: str | None = None
    locale: str = "en-US"
    accept_dms: bool = True

    @property
    def mention(self) -> str:
        return f"<@{self.id}>"


@dataclass(slots=True, eq=False)
class Bot:
    """A bot's application: its account, its token, and the switches of the developer portal."""

    user: User
    application_id: int
    token: str
    message_content: bool = True
    server_members: bool = True
    presences: bool = True
    commands: dict[int | None, dict[int, Json]] = field(default_factory=lambda: {None: {}})
    """The commands it has put up, by guild (None: global) and id, as Discord gives them back."""


@dataclass(slots=True, eq=False)
class Role:
    """A role of a guild; the one with the guild's id is `@everyone`."""

    id: int
    name: str
    permissions: int = 0
    mentionable: bool = False
    position: int = 0


@dataclass(slots=True, eq=False)
class Member:
    """One user in one guild."""

    user: User
    joined: float
    nick: str | None = None
    roles: list[Role] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Guild:
    """A guild, which its people call a server."""

    id: int
    name: str
    owner: User
    locale: str = "en-US"
    roles: dict[int, Role] = field(default_factory=dict)
    members: dict[int, Member] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    """Channels and threads."""


@dataclass(slots=True, eq=False)
class Channel:
    """A channel of a guild, a thread (`parent` is its channel), or a DM (`guild` is None)."""

    id: int
    kind: int
    name: str
    guild: Guild | None = None
    parent: Channel | None = None
    owner: User | None = None
    recipients: list[User] = field(default_factory=list)
    denied: dict[int, int] = field(default_factory=dict)
    """Permissions taken away here, by the id of the user or role that lacks them."""
    topic: str | None = None
    archived: bool = False
    locked: bool = False
    archive_minutes: int = 1440
    members: set[int] = field(default_factory=set)
    """The ids of those who joined a thread."""
    messages: dict[int, Message] = field(default_factory=dict)
    nonces: dict[tuple[int, str], tuple[float, Message]] = field(default_factory=dict)

    @property
    def is_thread(self) -> bool:
        return self.kind in (PUBLIC_THREAD, PRIVATE_THREAD)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of a message."""

    id: int
    filename: str
    content: bytes
    content_type: str
    description: str | None = None


@dataclass(slots=True, eq=False)
class Webhook:
    """A webhook of a channel: who holds its token may write there, under any name."""

    id: int
    token: str
    channel: Channel
    name: str
    maker: User


@dataclass(slots=True, eq=False)
class Message:
    """A message as it now is; `history` has what its text was before each edit, and `edited` when the last one was."""

    id: int
    channel: Channel
    author: User
    content: str
    at: float
    kind: int = 0
    embeds: list[Json] = field(default_factory=list)
    components: list[Json] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    flags: int = 0
    nonce: str | int | None = None
    reply_to: Message | None = None
    thread: Channel | None = None
    mentions: list[User] = field(default_factory=list)
    mention_roles: list[Role] = field(default_factory=list)
    mention_everyone: bool = False
    reactions: dict[str, list[User]] = field(default_factory=dict)
    application_id: int | None = None
    webhook_id: int | None = None
    """The ordinary webhook that it came by."""
    interaction: Json | None = None
    edited: float | None = None
    deleted: bool = False
    history: list[str] = field(default_factory=list)
    snapshot: Message | None = None
    """What was forwarded by it, as that was then."""
    notified: list[str] = field(default_factory=list)
    """Whom it has notified, as `pings` names them; an edit notifies nobody."""

    @property
    def pings(self) -> list[str]:
        """Whom it mentions now, so that it is marked for them: users, roles, and `@everyone`."""
        everyone = ["@everyone"] if self.mention_everyone else []
        return [
            *(user.mention for user in self.mentions),
            *(f"<@&{role.id}>" for role in self.mention_roles),
            *everyone,
        ]

    @property
    def ephemeral(self) -> bool:
        """Whether only the person who was answered sees it."""
        return bool(self.flags & EPHEMERAL)

    @property
    def loading(self) -> bool:
        """Whether it still says that the bot is thinking."""
        return bool(self.flags & LOADING)

    @property
    def text(self) -> str:
        """All the text it shows: its content, and that of its text displays."""
        return "\n".join([self.content] * bool(self.content) + list(shown_text(self.components)))


def shown_text(components: list[Json]) -> list[str]:
    """The text of every text display in a tree of components."""
    found: list[str] = []
    for component in walk(components):
        if component.get("type") == 10:
            found.append(str(component.get("content", "")))
    return found


def walk(components: list[Json]) -> list[Json]:
    """Every component of a tree, parents first."""
    found: list[Json] = []
    for component in components:
        inner = [
            *component.get("components", []),
            *(component[key] for key in ("accessory", "component") if component.get(key)),
        ]
        found += [component, *walk(inner)]
    return found


@dataclass(frozen=True, slots=True)
class Event:
    """Something that bots are told: `payload` gives what one sees of it, None for nothing.

    `intent`: the bit that one must have asked for (0: none). `place`: the guild, or the DM, that it happened in.
    """

    name: str
    intent: int
    place: Guild | Channel
    payload: Callable[[Bot, int], Json | None]
    channel: Channel | None = None


class World:
    """Everything there is, and whom to tell when it changes."""

    def __init__(self, clock: Clock, shards: int = 1) -> None:
        self.clock = clock
        self.shards = shards
        """How many shards bots are told to use."""
        self.users: dict[int, User] = {}
        self.bots: dict[str, Bot] = {}
        self.guilds: dict[int, Guild] = {}
        self.channels: dict[int, Channel] = {}
        self.attachments: dict[int, Attachment] = {}
        self.webhooks: dict[int, Webhook] = {}
        self.listeners: list[Callable[[Event], None]] = []
        self.base_url = ""
        self._last_id = 0

    def new_id(self) -> int:
        """A snowflake: milliseconds since 2015 in the upper 42 bits, and never less than one given out before."""
        self._last_id = max(self._last_id + 1, int(self.clock() * 1000) - EPOCH << 22)
        return self._last_id

    def emit(self, event: Event) -> None:
        """Tell everyone who listens."""
        for listener in self.listeners:
            listener(event)

    def channel(self, number: object) -> Channel:
        """The channel with this id, or refusal 10003."""
        return _look_up(self.channels, number, 10003, "Unknown Channel")

    def guild(self, number: object) -> Guild:
        """The guild with this id, or refusal 10004."""
        return _look_up(self.guilds, number, 10004, "Unknown Guild")

    def user(self, number: object) -> User:
        """The user with this id, or refusal 10013."""
        return _look_up(self.users, number, 10013, "Unknown User")

    def message(self, channel: Channel, number: object) -> Message:
        """The message with this id, or refusal 10008."""
        return _look_up(channel.messages, number, 10008, "Unknown Message")

    def bot_named(self, user: User) -> Bot | None:
        """The application whose account this is."""
        return next((bot for bot in self.bots.values() if bot.user is user), None)

    def application(self, number: object) -> Bot:
        """The application with this id, or refusal 10002."""
        return _look_up({bot.application_id: bot for bot in self.bots.values()}, number, 10002, "Unknown Application")


T = TypeVar("T")


def _look_up(found: Mapping[int, T], number: object, code: int, message: str) -> T:
    try:
        return found[int(str(number))]
    except (KeyError, ValueError):
        raise Refusal(404, code, message) from None
