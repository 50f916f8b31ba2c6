"""HTTP/1.1 on loopback, as much as real client libraries need: keep-alive, chunked bodies, upgrades, resets.

Knows no service: a handler turns each `Request` into a `Response`, an `Upgrade`, or raises `Reset`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit


class Reset(Exception):
    """Raised by a handler: the connection is reset in place of an answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole. `path` is unquoted and has no query; the names of `headers` are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; its length is added when it is sent.

    `pieces`: its body goes out in so many, `pause` before each (real seconds, or an event that is waited for).
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: int = 1
    pause: float | asyncio.Event = 0


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The answer 101: from then on the connection belongs to `serve`, until that returns."""

    headers: Mapping[str, str]
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


Handler = Callable[[Request], Awaitable[Response | Upgrade]]


class HttpServer:
    """Serves `handle` on a free port of 127.0.0.1, between `start` and `aclose`."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._errors: list[Exception] = []
        self.port = 0

    async def start(self, port: int = 0) -> None:
        """Listen; raises OSError where `port` is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self._answer, self._connections), "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _answer(self, request: Request) -> Response | Upgrade:
        try:
            return await self._handle(request)
        except Reset:
            raise
        except Exception as error:
            self._errors.append(error)
            raise Reset from error

    async def aclose(self) -> None:
        """Stop listening and cut every connection, whatever it was waiting for.

        Raises what handlers have raised but `Reset`: that is a bug in them, which no test should miss.
        """
        if self._server is not None:
            self._server.close()
            tasks = [connection.cut() for connection in tuple(self._connections)]
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._server.wait_closed()
        if self._errors:
            raise ExceptionGroup("the stand-in server failed", self._errors)


class _Connection(asyncio.StreamReaderProtocol):
    """One client, served by a task that ends with the connection: a poll whose client has left must not go on."""

    def __init__(self, handle: Handler, connections: set[_Connection]) -> None:
        super().__init__(asyncio.StreamReader(), self._begin)
        self._handle = handle
        self._connections = connections
        self._serving: asyncio.Task[None] | None = None
        self._out: asyncio.StreamWriter | None = None

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(self)
        self._out = writer
        self._serving = asyncio.get_running_loop().create_task(self._serve(reader, writer))

    def eof_received(self) -> bool:
        super().eof_received()
        return False  # no client of ours half-closes: it is gone

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._serving is not None:
            self._serving.cancel()
        self._connections.discard(self)

    def cut(self) -> asyncio.Task[None]:
        assert self._serving is not None
        assert self._out is not None
        self._out.transport.abort()
        self._serving.cancel()
        return self._serving

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader, writer)) is not None:
                answer = await self._handle(request)
                if isinstance(answer, Upgrade):
                    _write_head(writer, 101, {"Connection": "Upgrade", "Upgrade": "websocket", **answer.headers})
                    await answer.serve(reader, writer)
                    return
                length = {} if answer.status == 204 else {"Content-Length": str(len(answer.body))}
                _write_head(writer, answer.status, {**answer.headers, **length})
                await write_slowly(
                    writer, answer.body if request.method != "HEAD" else b"", answer.pieces, answer.pause
                )
                if request.headers.get("connection", "").lower() == "close":
                    return
        except (Reset, ConnectionError, asyncio.IncompleteReadError) as error:
            if isinstance(error, Reset):
                reset(writer)
        finally:
            writer.close()


async def write_slowly(
    writer: asyncio.StreamWriter, body: bytes, pieces: int = 1, pause: float | asyncio.Event = 0
) -> None:
    """Write a body in so many pieces, with a pause before each."""
    size = max(1, -(-len(body) // pieces))
    for start in range(0, max(1, len(body)), size):
        await _passed(pause)
        writer.write(body[start : start + size])
        await writer.drain()


async def _passed(pause: float | asyncio.Event) -> None:
    if isinstance(pause, asyncio.Event):
        await pause.wait()
    elif pause:
        await asyncio.sleep(pause)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, not with FIN: what a crashed proxy, or a cable pulled out, looks like."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _write_head(writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = start.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return Request(method, unquote(url.path), query, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks: list[bytes] = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while (await reader.readline()).strip():
        pass  # trailers
    return b"".join(chunks)
