"""What a failed call means for delivery: wait, leave the formatting out, give up, try again. Makes no call."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp

from chatbridge import ChatError, ContentRejected, NotFound, OutcomeUnknown, RateLimited, Unreachable

log = logging.getLogger(__name__)

_NOT_FOUND = frozenset(
    {
        50083,  # the thread is archived, and locked
        160005,  # the thread is locked
        50024,  # not in this kind of channel
    }
)


def error_of(status: int, headers: Mapping[str, str], answer: Any) -> ChatError:
    """The error for an answer of Discord's whose status is 300 or higher."""
    said = answer if isinstance(answer, dict) else {}
    words = _words(status, said)
    if status == 429:
        return _rate_limited(headers, said)
    if status == 401:
        log.error("Discord does not take the bot's token any longer: was a new one made in the developer portal?")
        return Unreachable(words)
    code = said.get("code")
    if status in (403, 404) or (isinstance(code, int) and code in _NOT_FOUND):
        return NotFound(words)
    if status < 500:
        return ContentRejected(words)
    return Unreachable(words) if status == 503 else OutcomeUnknown(words)


def unanswered(error: BaseException) -> ChatError:
    """The error for a call that got no answer."""
    words = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL):
        return Unreachable(words)
    return OutcomeUnknown(words)


def rate_limited_of(headers: Mapping[str, str]) -> RateLimited:
    """What the headers of an answer 429 say; they know whole seconds only."""
    after = headers.get("Retry-After", "")
    # One without a scope is not from Discord itself but from the proxy before it, which has banned this address.
    of_route = headers.get("X-RateLimit-Scope") in ("user", "shared")
    return RateLimited(float(after) if after.isdecimal() else None, "route" if of_route else "global")


def _rate_limited(headers: Mapping[str, str], said: Mapping[str, Any]) -> RateLimited:
    after = said.get("retry_after")
    if isinstance(after, int | float) and not isinstance(after, bool):
        return RateLimited(float(after), "global" if said.get("global") else "route")
    return rate_limited_of(headers)  # also where a proxy has answered in Discord's place


def _words(status: int, said: Mapping[str, Any]) -> str:
    errors = f" {json.dumps(said['errors'])}" if "errors" in said else ""
    return f"{status} {said.get('code', '')} {said.get('message', '')}{errors}".strip()
