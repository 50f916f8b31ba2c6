"""A small HTTP listener for Telegram's webhook: takes posts with the right secret, and nothing else.

An update is answered with 200 only after `take` has returned for it; otherwise Telegram posts it again.
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
IDLE_SECONDS = 120.0
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
        self._connections.add(task)
        try:
            await self._serve(reader, writer, h11.Connection(h11.SERVER, max_incomplete_event_size=16 * 1024))
        except (OSError, TimeoutError, h11.RemoteProtocolError):
            pass  # whoever that was has gone, or speaks no HTTP
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, http: h11.Connection) -> None:
        while True:
            request, body = await self._request(reader, http)
            if request is None:
                return
            status = await self._answer(request, body)
            writer.write(http.send(h11.Response(status_code=status, headers=[("Content-Length", "0")])) or b"")
            writer.write(http.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _request(
        self, reader: asyncio.StreamReader, http: h11.Connection
    ) -> tuple[h11.Request | None, bytes | None]:
        """The next request and its body, which is None where it is too long; no request at the end."""
        request: h11.Request | None = None
        body: bytes | None = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(IDLE_SECONDS):
                    http.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body = None if body is None or len(body) + len(event.data) > MAX_BYTES else body + bytes(event.data)
                if body is None:
                    return request, None
            elif isinstance(event, h11.EndOfMessage):
                return request, body
            else:
                return None, None

    async def _answer(self, request: h11.Request, body: bytes | None) -> int:
        headers = dict(request.headers)
        if request.target.partition(b"?")[0] != self._path:
            return 404
        if request.method != b"POST":
            return 405
        if not hmac.compare_digest(headers.get(SECRET_HEADER, b""), self._secret):
            log.warning("somebody who does not know the secret has posted to the webhook")
            return 403
        if body is None:
            return 413
        try:
            update = json.loads(body)
        except ValueError:
            return 400
        if not isinstance(update, dict):
            return 400
        return 200 if await self._take(update) else 503
