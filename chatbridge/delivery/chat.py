"""What a chat service is to delivery: five calls, its limits, and what a message holds.

Knows no service. A frontend implements `Chat` for one chat, describes it by `Limits`, and raises the errors of
`chatbridge.delivery.errors`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from chatbridge.delivery.rendered import Rendered, as_text
from chatbridge.types import Action, Attachment


def quoted(thought: str) -> str:
    """What a model says to itself, as a quotation in Markdown."""
    return "\n".join(f"> {line}" for line in thought.split("\n"))


@dataclass(frozen=True, slots=True)
class Entity:
    """A format beside the text. `offset` and `length` in the service's unit; `data`: a language or an address.

    Kinds are named as in Telegram's Bot API: bold, italic, strikethrough, spoiler, code, pre, text_link, blockquote,
    expandable_blockquote.
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

    `plain`: the text to send where the formatting is rejected; None where there is no formatting. `file` is sent along
    with the text. `preview`: the answer is still being written. `ends_answer`: no other message of this answer follows.
    `buttons`: all that the message has; an edit without any takes them away. A service that has none leaves them out.
    """

    text: str
    entities: tuple[Entity, ...] = ()
    plain: str | None = None
    file: Attachment | None = None
    preview: bool = False
    ends_answer: bool = False
    buttons: tuple[Button, ...] = ()

    def unformatted(self) -> MessageContent:
        """The same words without their formatting."""
        return replace(self, text=self.text if self.plain is None else self.plain, entities=(), plain=None)

    def with_note(self, note: str, count: Callable[[str], int]) -> MessageContent:
        """The same with a line above it, for which `split_answer` has left room."""
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
    max_entities: how many formats beside its text a message may have; None for any number.
    fold: turns a thought into Markdown that `render` shows folded; a quotation where the service has neither.
    max_messages: how many messages one answer may have; the rest comes as a file.
    previews: an answer that is being written is shown by editing messages, by drafts, or not at all.
    first_preview: an answer that ends sooner than this is shown once, finished.
    preview_every, preview_slowest: pause between two previews, when all goes well and after penalties.
    typing_every: how often the sign of typing is renewed; 0 for never.
    budget: calls that the service is known to allow in this chat; previews and typing leave some of it free.
    idempotent: sending again with the same nonce leaves one message.
    tries: a call is given up after so many failures in a row. doubtful_tries: the same where each failure may have
    left a message behind.
    patience: a call that takes longer counts as lost.
    """

    length: int
    count: Callable[[str], int] = len
    render: Callable[[str], Rendered] = as_text
    max_entities: int | None = None
    fold: Callable[[str], str] = quoted
    max_messages: int = 10
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

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        """Send a message and return its id. `nonce` (25 characters at most) is the same for each try of a message.

        Where the chat is `idempotent`, a message with that nonce may be there with other words (an earlier try was a
        preview): then it gets these.
        """
        ...

    async def edit(self, message_id: str, content: MessageContent) -> None:
        """Replace what a message of ours holds."""
        ...

    async def delete(self, message_id: str) -> None:
        """Take a message of ours away."""
        ...

    async def typing(self) -> None:
        """Show that an answer is being written."""
        ...

    async def draft(self, draft_id: int, content: MessageContent) -> None:
        """Show a preview that is no message yet. Only called where `Limits.previews` is "draft"."""
        ...
