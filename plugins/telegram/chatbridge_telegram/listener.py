"""A small HTTP listener for Telegram's webhook: takes posts with the right secret, and nothing else.

An update is answered with 200 only after `take` has returned for it; otherwise Telegram posts it again. Anybody may
reach the listener, so a body is read only behind the secret, and nobody gets more than some bytes and seconds.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import h11

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**20
MAX_HEAD = 16 * 1024
MAX_CONNECTIONS = 200
"""At once; Telegram makes 40 unless it is told otherwise, 100 at most."""
HEAD_SECONDS = 10.0
"""For the head of a request, from its first byte on."""
BODY_SECONDS = 30.0
"""For its body."""
IDLE_SECONDS = 120.0
"""Between two requests of a connection that has shown the secret; the first one has to begin within `HEAD_SECONDS`."""
COMPLAIN_EVERY = 60.0
"""Seconds between two lines of the log about posts without the secret: strangers must not fill the disk."""
REFUSALS = {
    400: "this is no update",
    403: "the secret is missing, or wrong",
    404: "the webhook is at another path",
    405: "updates are posted",
    408: f"a post has to be here within {BODY_SECONDS:g} seconds",
    413: f"a post has {MAX_BYTES} bytes at most",
    503: "the update can't be stored now; post it again",
}
"""What stands in an answer that is not 200, for whoever sets up the proxy before this."""
SECRET_HEADER = b"x-telegram-bot-api-secret-token"


class Listener:
    """Use it as an async context manager. `port` is the one it really listens on."""

    def __init__(
        self, host: str, port: int, url: str, secret: str, take: Callable[[dict[str, Any]], Awaitable[bool]]
    ) -> None:
        self._host, self.port = host, port
        self._path = (urlsplit(url).path or "/").encode()
        self._secret = secret.encode()
        self._take = take
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self._complained = float("-inf")

    async def __aenter__(self) -> Listener:
        self._server = await asyncio.start_server(self._connected, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS:
            self._complain(f"the webhook has {MAX_CONNECTIONS} connections at once; more are closed")
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer, h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD))
        except (OSError, TimeoutError, h11.RemoteProtocolError):
            pass  # whoever that was has gone, or speaks no HTTP
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, http: h11.Connection) -> None:
        idle = HEAD_SECONDS
        while True:
            request = await self._head(reader, http, idle)
            if request is None:
                return
            status = self._refusal(request)
            if not status:
                if http.they_are_waiting_for_100_continue:
                    writer.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                try:
                    body = await self._body(reader, http)
                    status = 413 if body is None else await self._answer(body)
                except TimeoutError:
                    status = 408
            again = http.their_state is h11.DONE
            told = REFUSALS.get(status, "").encode()
            headers = [("Content-Length", str(len(told))), *([] if again else [("Connection", "close")])]
            writer.write(http.send(h11.Response(status_code=status, headers=headers)) or b"")
            writer.write((http.send(h11.Data(data=told)) or b"") if told and request.method != b"HEAD" else b"")
            writer.write(http.send(h11.EndOfMessage()) or b"")
            async with asyncio.timeout(HEAD_SECONDS):  # one that reads nothing holds nothing up
                await writer.drain()
            if not again or http.our_state is not h11.DONE:
                return
            http.start_next_cycle()
            idle = IDLE_SECONDS

    async def _head(self, reader: asyncio.StreamReader, http: h11.Connection, idle: float) -> h11.Request | None:
        """The head of the next request; None at the end. Raises TimeoutError where it takes too long."""
        async with asyncio.timeout(idle) as limit:
            while (event := http.next_event()) is h11.NEED_DATA:
                data = await reader.read(65536)
                if idle > HEAD_SECONDS and data:  # it has begun
                    limit.reschedule(asyncio.get_running_loop().time() + HEAD_SECONDS)
                    idle = HEAD_SECONDS
                http.receive_data(data)
        return event if isinstance(event, h11.Request) else None

    def _refusal(self, request: h11.Request) -> int:
        """The status by which a request is refused before its body is read; 0 for one that is taken."""
        headers = dict(request.headers)
        if request.target.partition(b"?")[0] != self._path:
            return 404
        if request.method != b"POST":
            return 405
        if not hmac.compare_digest(headers.get(SECRET_HEADER, b""), self._secret):
            self._complain("somebody who does not know the secret has posted to the webhook")
            return 403
        length = headers.get(b"content-length", b"0")
        return 413 if len(length) > 12 or int(length) > MAX_BYTES else 0

    def _complain(self, why: str) -> None:
        """Log what strangers do, with how often they did something, and not too often."""
        self._strangers += 1
        now = asyncio.get_running_loop().time()
        if now - self._complained >= COMPLAIN_EVERY:
            log.warning("%s (%d times)", why, self._strangers)
            self._strangers, self._complained = 0, now

    async def _body(self, reader: asyncio.StreamReader, http: h11.Connection) -> bytes | None:
        """The body of a request; None where it is too long. Raises TimeoutError where it takes too long."""
        pieces, count = [], 0
        async with asyncio.timeout(BODY_SECONDS):
            while not isinstance(event := http.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Data):
                    pieces.append(bytes(event.data))
                    count += len(event.data)
                    if count > MAX_BYTES:
                        return None
        return b"".join(pieces)

    async def _answer(self, body: bytes) -> int:
        try:
            update = json.loads(body)
        except (ValueError, RecursionError):  # no JSON, or nested deeper than anything that Telegram sends
            update = None
        if not isinstance(update, dict) or not isinstance(update.get("update_id"), int):
            log.warning("a post to the webhook is no update, and is refused; Telegram posts again what is one")
            return 400
        return 200 if await self._take(update) else 503
