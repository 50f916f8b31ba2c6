"""What a chat service is to delivery: five calls, the ways in which they fail, and what a message holds.

Knows no service. A frontend implements `Chat` for one chat, describes it by `Limits`, and turns its library's
exceptions into these:

    ChatError
    ├── RateLimited      called too often: no call until the time is over
    ├── ContentRejected  the service does not take this content
    ├── NotFound         the message, or the whole chat, is not there (any longer), or the bot may not write to it
    ├── Unreachable      nothing was done; worth another try
    └── OutcomeUnknown   it was done, or it was not: the answer got lost
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from chatbridge.delivery.rendered import Rendered, as_text
from chatbridge.errors import ChatbridgeError
from chatbridge.types import Action, Attachment

Scope = Literal["route", "chat", "global"]


class ChatError(ChatbridgeError):
    """A call to a chat service did not go through; the text says why."""


class RateLimited(ChatError):
    """Too many calls: none may be made for `seconds` (None where the service does not say for how long).

    `scope`: this kind of call in this chat, all calls in this chat, or all calls of this bot.
    """

    def __init__(self, seconds: float | None = None, scope: Scope = "chat") -> None:
        super().__init__(f"too many calls ({scope}); wait {'a while' if seconds is None else f'{seconds:g} s'}")
        self.seconds = seconds
        self.scope = scope


class ContentRejected(ChatError):
    """The service does not take this content, now or ever: bad formatting, too long, a file it won't have."""


class NotFound(ChatError):
    """There is no such message or chat, or the bot may not write there. Raised by `edit` it speaks of the message."""


class Unreachable(ChatError):
    """The call had no effect, and may be made again: connection refused, service down before it read the call."""


class OutcomeUnknown(ChatError):
    """The call may have had its effect: a time-out or a reset after it was sent, an error 500."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A format beside the text. `offset` and `length` in the service's unit; `data`: a language or an address.

    Kinds are named as in Telegram's Bot API: bold, italic, strikethrough, code, pre, text_link, blockquote.
    """

    kind: str
    offset: int
    length: int
    data: str = ""


@dataclass(frozen=True, slots=True)
class Button:
    """One button under a message; `Delivery.press` is told when somebody presses it. `label` is what it says."""

    action: Action
    label: str


@dataclass(frozen=True, slots=True)
class MessageContent:
    """What one message holds, never longer than `Limits` allow.

    `plain` is what to send where the formatting is refused; None where there is none to leave out. `file` is sent
    along with the text. `live`: the answer is still being written. `last`: it ends here. `buttons` are all that the
    message has: an edit without any takes them away. A service that has none leaves them out.
    """

    text: str
    entities: tuple[Entity, ...] = ()
    plain: str | None = None
    file: Attachment | None = None
    live: bool = False
    last: bool = False
    buttons: tuple[Button, ...] = ()

    def unformatted(self) -> MessageContent:
        """The same words without their formatting."""
        return replace(self, text=self.text if self.plain is None else self.plain, entities=(), plain=None)

    def marked(self, note: str, count: Callable[[str], int]) -> MessageContent:
        """With a line above, for which `split_answer` has left room."""
        head = f"{note}\n"
        moved = tuple(replace(entity, offset=entity.offset + count(head)) for entity in self.entities)
        plain = None if self.plain is None else head + self.plain
        return replace(self, text=head + self.text, entities=moved, plain=plain)


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `calls` calls in any `seconds`."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What one chat takes, and how fast; times in seconds.

    length, count: the longest text of a message, as `count` counts; `count` must be the sum over the characters.
    render: turns Markdown into what the service shows.
    parts: so many messages at most for one answer; the rest comes as a file.
    previews: an answer that is being written is shown by editing messages, by drafts, or not at all.
    first_preview: an answer that ends sooner is shown once, finished.
    preview_every, preview_slowest: pause between two previews, when all goes well and after penalties.
    typing_every: how often the sign of typing is renewed; 0 for never.
    budget: calls that the service is known to allow in this chat; previews and typing leave a part of it free.
    idempotent: sending again with the same nonce leaves one message.
    tries: after so many failures in a row, a call is given up. doubtful_tries: the same where each failure may have
    left a message behind.
    patience: a call that takes longer is taken for lost.
    """

    length: int
    count: Callable[[str], int] = len
    render: Callable[[str], Rendered] = as_text
    parts: int = 10
    previews: Literal["edit", "draft", "none"] = "edit"
    first_preview: float = 1.0
    preview_every: float = 1.0
    preview_slowest: float = 30.0
    typing_every: float = 8.0
    budget: Budget | None = None
    idempotent: bool = False
    tries: int = 12
    doubtful_tries: int = 3
    patience: float = 60.0


class Chat(Protocol):
    """One chat of a service, as a frontend implements it. Delivery makes one call at a time.

    Each method makes one attempt (no retries, no waiting for rate limits, if the library can be told so) and raises
    a `ChatError`. An edit that changes nothing is no error.
    """

    async def send(self, part: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        """Send a message and return its id. `nonce` (25 characters at most) is the same for each try of a message.

        Where the chat is `idempotent`, a message with that nonce may be there with other words (an earlier try was a
        preview): then it gets these.
        """
        ...

    async def edit(self, message_id: str, part: MessageContent) -> None:
        """Replace what a message of ours holds."""
        ...

    async def delete(self, message_id: str) -> None:
        """Take a message of ours away."""
        ...

    async def typing(self) -> None:
        """Show that an answer is being written."""
        ...

    async def draft(self, draft_id: int, part: MessageContent) -> None:
        """Show a preview that is no message yet. Only called where `Limits.previews` is "draft"."""
        ...


class Clock(Protocol):
    """Where delivery's time comes from, so that tests can bring their own."""

    def time(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class LoopClock:
    """The running event loop's time."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def utf16_length(text: str) -> int:
    """How Telegram counts: UTF-16 code units, so that an emoji counts two or more."""
    return len(text) + sum(char > "\uffff" for char in text)


def packed(part: MessageContent) -> str:
    """A part as JSON, for the outbox."""
    file = part.file and [part.file.name, part.file.media_type, part.file.data.decode("latin-1")]
    fields = {
        "text": part.text,
        "entities": [[entity.kind, entity.offset, entity.length, entity.data] for entity in part.entities],
        "plain": part.plain,
        "file": file,
        "last": part.last,
        "buttons": [[button.action, button.label] for button in part.buttons],
    }
    return json.dumps(fields, ensure_ascii=False)


def unpacked(text: str) -> MessageContent:
    """What `packed` was given; a part in the outbox is never a preview."""
    fields = json.loads(text)
    file = fields["file"] and Attachment(fields["file"][0], fields["file"][1], fields["file"][2].encode("latin-1"))
    entities = tuple(Entity(*entity) for entity in fields["entities"])
    buttons = tuple(Button(*button) for button in fields["buttons"])
    return MessageContent(fields["text"], entities, fields["plain"], file, last=fields["last"], buttons=buttons)
