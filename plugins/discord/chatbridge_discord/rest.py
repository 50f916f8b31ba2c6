"""Calls to Discord's REST API with a bot's token, each made once. Decides nothing about when.

discord.py waits for rate limits and tries again by itself, out of sight and as long as it takes. Delivery keeps a
chat's calls in order and has to know at once what came of each, so its calls are made here. What Discord tells of its
limits is heeded: a call that it has said to be too early is not made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import aiohttp

from chatbridge import Attachment, OutcomeUnknown, RateLimited
from chatbridge_discord.failures import UNREADABLE, error_of, unanswered

AGENT = "DiscordBot (https://pypi.org/project/chatbridge-discord/, 0.1.0)"
TIMEOUT = aiohttp.ClientTimeout(total=45, sock_connect=15)


class Rest:
    """One bot's calls; an async context manager. `now` is the clock that Discord's deadlines are told to.

    `trace`: what hears of each call when it begins and ends.
    """

    def __init__(
        self,
        token: str,
        api_url: str,
        now: Callable[[], float],
        proxy: str | None = None,
        trace: aiohttp.TraceConfig | None = None,
    ) -> None:
        self._base, self._now, self._proxy = api_url.rstrip("/"), now, proxy
        self._traces = [] if trace is None else [trace]
        self._headers = {"Authorization": f"Bot {token}", "User-Agent": AGENT}
        self._full: dict[str, float] = {}
        """Until when there is no room in a bucket, as far as Discord has told."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=self._headers,
            timeout=TIMEOUT,
            trace_configs=self._traces,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: Any = None, *, file: Attachment | None = None) -> Any:
        """What a call is answered with; None where that is nothing. Raises: ChatError."""
        bucket = _bucket(method, path)
        if (wait := self._full.get(bucket, 0.0) - self._now()) > 0:
            raise RateLimited(wait, "route")
        try:
            async with self._session.request(
                method, self._base + path, proxy=self._proxy, **_content(body, file)
            ) as answer:
                data = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unanswered(error) from error
        self._heed(bucket, answer)
        given = _decoded(data)
        if answer.status >= 300:
            raise error_of(answer.status, answer.headers, given)
        if data and given is None:
            raise OutcomeUnknown(UNREADABLE)
        return given

    def _heed(self, bucket: str, answer: aiohttp.ClientResponse) -> None:
        now = self._now()
        self._full = {key: until for key, until in self._full.items() if until > now}
        if answer.status != 429 and answer.headers.get("X-RateLimit-Remaining") == "0":
            self._full[bucket] = now + float(answer.headers.get("X-RateLimit-Reset-After", 0))


def _bucket(method: str, path: str) -> str:
    """What is counted together: the same kind of call in the same channel, whatever the message."""
    return f"{method} {re.sub(r'(?<=/messages)/[0-9]+', '', path.partition('?')[0])}"


def _content(body: Any, file: Attachment | None) -> dict[str, Any]:
    if file is None:
        return {} if body is None else {"json": body}
    form = aiohttp.FormData(quote_fields=False)  # Discord does not take quoted brackets
    attached = body | {"attachments": [{"id": 0, "filename": file.name}]}
    form.add_field("payload_json", json.dumps(attached), content_type="application/json")
    form.add_field("files[0]", file.data, filename=file.name, content_type=file.media_type)
    return {"data": form}


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # no JSON, or nested deeper than anything that Discord sends
        return None
