"""How the library's calls are made: how many connections, and what counts as an answer. Knows no method of Telegram's.

The library parses answers as JSON and takes for granted what is in them. One that is nested deeper than Python reads,
or is no answer of the Bot API at all, would come up as an error that looks like a mistake of the program; here it is
the same error as a page of HTML.
"""

from __future__ import annotations

from typing import Any

import httpx
from telegram.error import TelegramError
from telegram.request import HTTPXRequest

CONNECTIONS = 64
"""At once, at most."""
KEPT_CONNECTIONS = 16
"""How many are kept open when nothing goes through them: each costs a look at its socket with every call. With 25 calls
a second, that many are in use where Telegram takes 0.6 s to answer; beyond that, some are opened anew."""
KEPT_SECONDS = 5.0
"""How long they are kept so. A longer time would risk that Telegram closes one just as a message goes into it, and then
nobody knows whether it has arrived."""


class Request(HTTPXRequest):
    """A `telegram.request.HTTPXRequest` that raises TelegramError for whatever is no answer of the Bot API."""

    def __init__(self, connections: int = CONNECTIONS, **more: Any) -> None:
        kept = httpx.Limits(
            max_connections=connections,
            max_keepalive_connections=min(connections, KEPT_CONNECTIONS),
            keepalive_expiry=KEPT_SECONDS,
        )
        super().__init__(connections, httpx_kwargs={"limits": kept}, **more)

    @staticmethod
    def parse_json_payload(payload: bytes) -> dict[str, Any]:
        """The answer that these bytes hold. Raises: TelegramError."""
        try:
            answer = HTTPXRequest.parse_json_payload(payload)
        except RecursionError:
            raise TelegramError("Invalid server response: it is nested too deep") from None
        if not _is_answer(answer):
            raise TelegramError("Invalid server response")
        return answer


def _is_answer(answer: Any) -> bool:
    if not isinstance(answer, dict) or not isinstance(answer.get("parameters") or {}, dict):
        return False
    if answer.get("ok") is not True:
        return "description" in answer
    result = answer.get("result")
    return result is not None and not (isinstance(result, list) and any(isinstance(one, list) for one in result))
