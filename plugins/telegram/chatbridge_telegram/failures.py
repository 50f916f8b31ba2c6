"""What the library's exceptions mean for delivery: wait, send without formatting, give up, try again. Makes no call."""

from __future__ import annotations

from datetime import timedelta

import httpx
from telegram.error import BadRequest, Forbidden, InvalidToken, NetworkError, RetryAfter, TelegramError

from chatbridge import ChatError, ContentRejected, NotFound, OutcomeUnknown, RateLimited, Unreachable

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
_NOT_FOUND = (
    "message to edit not found",
    "message can't be edited",
    "message to delete not found",
    "message can't be deleted",
    "message_id_invalid",
    "chat not found",
    "message thread not found",
    "topic_closed",
    "topic_deleted",
    "not enough rights",
    "chat_write_forbidden",
    "user_is_blocked",
    "peer_id_invalid",
)
NOT_MODIFIED = "message is not modified"


def says(error: TelegramError, *texts: str) -> bool:
    """Whether Telegram's words contain one of these; the library capitalises them, and cuts their head."""
    words = str(error).lower()
    return any(text in words for text in texts)


def chat_error(error: TelegramError) -> ChatError:
    """The same failure in delivery's words."""
    if isinstance(error, RetryAfter):
        return RateLimited(seconds_of(error), "chat")
    if says(error, "too many requests"):
        return RateLimited(None, "chat")
    if isinstance(error, Forbidden) or (isinstance(error, BadRequest) and says(error, *_NOT_FOUND)):
        return NotFound(str(error))
    if isinstance(error, BadRequest | InvalidToken):  # the latter also stands for a method that this server lacks
        return ContentRejected(str(error))
    if isinstance(error, NetworkError) and isinstance(error.__cause__, _NOT_SENT):
        return Unreachable(str(error))
    return OutcomeUnknown(str(error))


def seconds_of(error: RetryAfter) -> float | None:
    """How long to wait: a number, or, where an environment variable says so, a timedelta; None for nonsense."""
    try:
        wait: int | timedelta = error.retry_after
        return wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
    except (AttributeError, OverflowError, TypeError, ValueError):  # the library takes whatever the service says
        return None
