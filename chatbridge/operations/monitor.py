"""A small HTTP server for those who watch the program: /healthz and /metrics. Knows what to say, not what it means.

GET only, one request a connection; meant for loopback or a private network, behind no login.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chatbridge.errors import ConfigError

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that a client has for its request, and then for taking the answer."""
MAX_HEAD = 1 << 13
"""Bytes of a request's head. A body is never read."""
MAX_CONNECTIONS = 64
"""At once; more are closed at once, so that somebody who only connects can't use up the program's descriptors."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is at a path."""

    body: bytes
    status: str = "200 OK"
    content_type: str = "application/json"


Pages = dict[str, Callable[[], Awaitable[Page]]]


@asynccontextmanager
async def serving(address: str, pages: Pages) -> AsyncIterator[int]:
    """Serve `pages` at `HOST:PORT` while the block runs; gives the port, for a wish of 0.

    Raises: ConfigError where the address can't be had.
    """
    host, _, port = address.rpartition(":")

    connected = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        if connected >= MAX_CONNECTIONS:
            writer.write(_written(_refusal("503 Service Unavailable", f"{MAX_CONNECTIONS} connections at once")))
            writer.close()
            return
        connected += 1
        try:
            try:
                async with asyncio.timeout(PATIENCE):
                    page = await _page(reader, pages)
            except TimeoutError:
                page = _refusal("408 Request Timeout", f"a request has {PATIENCE:g} seconds")
            except asyncio.LimitOverrunError:
                page = _refusal("431 Request Header Fields Too Large", f"the head of a request has {MAX_HEAD} bytes")
            writer.write(_written(page))
            async with asyncio.timeout(PATIENCE):
                await writer.drain()
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            log.debug("a request to the monitor came to nothing: %s", error)
        finally:
            connected -= 1
            writer.close()

    try:
        server = await asyncio.start_server(answer, host.strip("[]") or None, int(port), limit=MAX_HEAD)
    except OSError as error:
        raise ConfigError(f"`monitor: {address}` can't be had: {error.strerror}; name another address") from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()  # not `async with`: from Python 3.12.1 on that waits for whoever keeps a connection open


def _refusal(status: str, limit: str) -> Page:
    return Page(json.dumps({"error": f"{limit} at most"}).encode(), status)


def _written(page: Page) -> bytes:
    head = f"HTTP/1.1 {page.status}\r\nContent-Type: {page.content_type}\r\n"
    head += f"Content-Length: {len(page.body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + page.body


async def _page(reader: asyncio.StreamReader, pages: Pages) -> Page:
    head = await reader.readuntil(b"\r\n\r\n")
    method, path, *_ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if method != "GET":
        return Page(b"", "405 Method Not Allowed")
    make = pages.get(path.partition("?")[0])
    if make is None:
        return Page(json.dumps({"error": f"there are {', '.join(pages)}"}).encode(), "404 Not Found")
    try:
        return await make()
    except Exception:
        log.exception("the monitor failed at %s", path)
        return Page(b"", "500 Internal Server Error")
