"""What can go wrong with calls to Telegram, besides what can with any: floods, errors, refusals. Knows no call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus

from chatbridge.testing.telegram.state import Json, Refusal
from chatbridge.testing.wire.calls import Call
from chatbridge.testing.wire.faults import Faults
from chatbridge.testing.wire.http import Response

JSON: Mapping[str, str] = {"Content-Type": "application/json"}


class TelegramFaults(Faults):
    """Names of calls are those of methods, `sendMessage`; patterns may say `send*`. `file` is a download."""

    def __init__(self, penalise: Callable[[Call, float, bool], Refusal]) -> None:
        super().__init__()
        self._penalise = penalise

    def flood(
        self, pattern: str, retry_after: float, *, everywhere: bool = False, times: int = 1, skip: int = 0
    ) -> None:
        """429 with `retry_after` seconds, in which the chat (`everywhere`: the bot) is refused everything."""

        def answer(call: Call, response: Response | None) -> Response:
            return refused(self._penalise(call, retry_after, everywhere))

        self.add("429 everywhere" if everywhere else "429", pattern, answer, times=times, skip=skip)

    def flood_without_word(self, pattern: str, *, times: int = 1, skip: int = 0) -> None:
        """429 that does not say how long to wait."""
        self.refuse(pattern, 429, "Too Many Requests: retry later", times=times, skip=skip)

    def error(self, pattern: str, status: int = 502, *, acts: bool = False, times: int = 1, skip: int = 0) -> None:
        """An answer 5xx; `acts`: it has taken effect. 500 comes from the Bot API, others from its proxy."""
        phrase = HTTPStatus(status).phrase
        page = f"<html>\r\n<head><title>{status} {phrase}</title></head>\r\n</html>\r\n".encode()
        response = Response(status, page, {"Content-Type": "text/html"})
        if status == 500:
            response = refused(Refusal(500, phrase))
        self.add(str(status), pattern, lambda call, _: response, acts=acts, times=times, skip=skip)

    def refuse(
        self,
        pattern: str,
        code: int,
        description: str,
        parameters: Json | None = None,
        *,
        times: int = 1,
        skip: int = 0,
    ) -> None:
        """An error of the Bot API: 403 `Forbidden: bot was blocked by the user`, and the like."""
        response = refused(Refusal(code, description, parameters))
        self.add(f"{code} {description}", pattern, lambda call, _: response, times=times, skip=skip)


def refused(refusal: Refusal) -> Response:
    """A refusal as Telegram gives it."""
    return Response(refusal.code, json.dumps(refusal.body).encode(), JSON)
