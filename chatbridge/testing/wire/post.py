"""One HTTP POST to a loopback address: how a stand-in calls a bot's own listener. Knows no service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from chatbridge.testing.wire.http import write_slowly


async def post(
    url: str, body: bytes, headers: Mapping[str, str], *, pieces: int = 1, pause: float | asyncio.Event = 0
) -> tuple[int, bytes]:
    """The status and the body of the answer. OSError, or EOFError, where there is none.

    `pieces`, `pause`: how slowly the body goes out, see `Response`.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = {"Host": parts.netloc, "Content-Length": str(len(body)), "Connection": "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode())
        await write_slowly(writer, body, pieces, pause)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *rest = answer.split("\r\n")
        lengths = [line.partition(":")[2] for line in rest if line.lower().startswith("content-length:")]
        content = await reader.readexactly(int(lengths[0])) if lengths else await reader.read()
        return int(first.split(" ")[1]), content
    finally:
        writer.close()
