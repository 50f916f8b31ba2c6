"""What can go wrong with calls to Discord, besides what can with any: limits, errors, its proxy. Knows no call."""

from __future__ import annotations

import json
from collections.abc import Callable

from chatbridge.testing.discord.limits import TooMany
from chatbridge.testing.discord.state import Refusal
from chatbridge.testing.wire.calls import Call
from chatbridge.testing.wire.faults import Faults
from chatbridge.testing.wire.http import Response

JSON = {"Content-Type": "application/json"}


class DiscordFaults(Faults):
    """Names of calls are `POST /channels/123/messages`; patterns may say `POST /channels/*/messages`.

    The gateway's connections are calls too: `GET /gateway/`. What befalls one that is open, `server.gateway` does.
    """

    def __init__(self, block: Callable[[Call, float, str], TooMany]) -> None:
        super().__init__()
        self._block = block

    def rate_limit(
        self, pattern: str, retry_after: float, *, scope: str = "user", times: int = 1, skip: int = 0
    ) -> None:
        """429 with `retry_after` seconds, in which the bucket (scope `global`: the bot) is refused everything."""

        def answer(call: Call, response: Response | None) -> Response:
            return too_many_requests(self._block(call, retry_after, scope))

        self.add(f"429 {scope}", pattern, answer, times=times, skip=skip)

    def ban(self, pattern: str, *, times: int = 1, skip: int = 0) -> None:
        """429 as a proxy before Discord gives it: no `Via`, no JSON, nothing said of when to come back."""
        self.add("429 banned", pattern, lambda call, response: banned(), times=times, skip=skip)

    def error(self, pattern: str, status: int, *, acts: bool = False, times: int = 1, skip: int = 0) -> None:
        """An answer 5xx; `acts`: though the call has taken effect."""
        text = b"<html><body>upstream connect error</body></html>"
        response = Response(status, text, {"Content-Type": "text/html"})
        self.add(str(status), pattern, lambda call, _: response, acts=acts, times=times, skip=skip)

    def refuse(self, pattern: str, status: int, code: int, message: str, *, times: int = 1, skip: int = 0) -> None:
        """Discord's own error: 403 50013 `Missing Permissions`, and the like."""
        body = json.dumps(Refusal(status, code, message).body).encode()
        self.add(f"{status} {code}", pattern, lambda call, _: Response(status, body, JSON), times=times, skip=skip)


def too_many_requests(too_many: TooMany) -> Response:
    """429 as Discord gives it."""
    body = too_many.body
    headers = JSON | {"Retry-After": str(int(-(-too_many.retry_after // 1))), "X-RateLimit-Scope": too_many.scope}
    if too_many.scope == "global":
        headers["X-RateLimit-Global"] = "true"
    return Response(429, json.dumps(body).encode(), headers)


def banned() -> Response:
    """429 as the proxy before Discord gives it."""
    return Response(429, b"<html><body>error code: 1015</body></html>", {"Content-Type": "text/html"})
