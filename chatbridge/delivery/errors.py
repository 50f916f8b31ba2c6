"""The ways in which a call to a chat service fails. Knows no service.

A frontend turns its library's exceptions into these:

    ChatError
    ├── RateLimited      called too often: no call until the time is over
    ├── ContentRejected  the service does not take this content
    ├── NotFound         the message, or the whole chat, is not there (any longer), or the bot may not write to it
    ├── Unreachable      nothing was done; worth another try
    └── OutcomeUnknown   it was done, or it was not: the response got lost
"""

from __future__ import annotations

from typing import Literal

from chatbridge.errors import ChatbridgeError

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
