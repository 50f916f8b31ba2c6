"""What the library's exceptions mean for delivery: wait, send without formatting, give up, try again. Makes no call."""

from __future__ import annotations

from datetime import timedelta

import httpx
from telegram.error import BadRequest, Forbidden, InvalidToken, NetworkError, RetryAfter, TelegramError

from chatbridge import ChatError, ContentRejected, NotFound, OutcomeUnknown, RateLimited, Unreachable, in_one_line

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
MAX_WHY = 300
"""Characters of an error in the log: it may bring a page of HTML along."""
NOT_MODIFIED = "message is not modified"


def says(error: TelegramError, *texts: str) -> bool:
    """Whether Telegram's words contain one of these; the library capitalises them, and cuts their head."""
    words = str(error).lower()
    return any(text in words for text in texts)


def why(error: Exception) -> str:
    """What an error says, in one line."""
    return in_one_line(str(error), MAX_WHY)


def chat_error(error: TelegramError) -> ChatError:
    """The same failure in delivery's words."""
    if isinstance(error, RetryAfter):
        return RateLimited(seconds_of(error), "chat")
    if says(error, "too many requests"):
        return RateLimited(None, "chat")
    if isinstance(error, Forbidden) or (isinstance(error, BadRequest) and says(error, *_NOT_FOUND)):
        return NotFound(why(error))
    if isinstance(error, BadRequest | InvalidToken):  # the latter also stands for a method that this server lacks
        return ContentRejected(why(error))
    if isinstance(error, NetworkError) and isinstance(error.__cause__, _NOT_SENT):
        return Unreachable(why(error))
    return OutcomeUnknown(why(error))


def seconds_of(error: RetryAfter) -> float | None:
    """How long to wait: a number, or, where an environment variable says so, a timedelta; None for nonsense."""
    try:
        wait: int | timedelta = error.retry_after
        return wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
    except (AttributeError, OverflowError, TypeError, ValueError):  # the library takes whatever the service says
        return None
