"""What a failed call means for delivery: wait, leave the formatting out, give up, try again. Makes no call."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
import discord

from chatbridge import ChatError, ContentRejected, NotFound, OutcomeUnknown, RateLimited, Unreachable, in_one_line

log = logging.getLogger(__name__)

TRANSIENT_ERRORS = (
    discord.DiscordException,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    json.JSONDecodeError,  # an answer that is cut, or no JSON at all
    RecursionError,  # one that is nested deeper than Python reads
)
"""What the library's calls raise when Discord or the network is in trouble; they may succeed later."""
UNREADABLE = "Discord's answer can't be read"
MAX_WHY = 300
"""Characters of an error in the log: it may bring a page of HTML along."""

_NOT_FOUND = frozenset(
    {
        50083,  # the thread is archived, and locked
        160005,  # the thread is locked
        50024,  # not in this kind of channel
    }
)


def why(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, json.JSONDecodeError | RecursionError):
        return UNREADABLE + (": it is nested too deep" if isinstance(error, RecursionError) else "")
    return in_one_line(f"{type(error).__name__}: {error}".rstrip(": "), MAX_WHY)


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
    words = why(error)
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
