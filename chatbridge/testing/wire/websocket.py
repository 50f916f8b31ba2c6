"""The server's side of a WebSocket (RFC 6455), without extensions. Knows no gateway."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable

from chatbridge.testing.wire.http import Request, Upgrade, reset

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class WebSocket:
    """One connection. `close_code` is what the other side closed with; 1006 where it just went away."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._closing = False
        self.close_code: int | None = None

    async def receive(self) -> str | None:
        """The next message; None when the connection is over."""
        message = b""
        while True:
            try:
                last, opcode, payload = await self._frame()
            except (asyncio.IncompleteReadError, ConnectionError):
                self.close_code = self.close_code or 1006
                return None
            if opcode == _CLOSE:
                self.close_code = int.from_bytes(payload[:2]) if payload else 1005
                self._send(_CLOSE, payload[:2])
                self._writer.close()
                return None
            if opcode == _PING:
                self._send(_PONG, payload)
            elif opcode in (_TEXT, _BINARY, _CONTINUED):
                message += payload
                if last:
                    return message.decode()

    async def _frame(self) -> tuple[bool, int, bytes]:
        first, second = await self._reader.readexactly(2)
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8))
        mask = await self._reader.readexactly(4) if second & 0x80 else bytes(4)
        data = await self._reader.readexactly(length)
        key = int.from_bytes((mask * (length // 4 + 1))[:length])
        return bool(first & 0x80), first & 0x0F, (int.from_bytes(data) ^ key).to_bytes(length)

    def send(self, message: str | bytes) -> None:
        """Send text or bytes; after the end, nothing happens."""
        if isinstance(message, str):
            self._send(_TEXT, message.encode())
        else:
            self._send(_BINARY, message)

    def _send(self, opcode: int, payload: bytes) -> None:
        if self._closing or self._writer.is_closing():
            return
        self._closing = opcode == _CLOSE
        size = len(payload)
        if size < 126:
            length = bytes([size])
        elif size < 1 << 16:
            length = b"\x7e" + size.to_bytes(2)
        else:
            length = b"\x7f" + size.to_bytes(8)
        self._writer.write(bytes([0x80 | opcode]) + length + payload)

    def close(self, code: int, reason: str = "") -> None:
        """Say goodbye; the connection ends when the other side has answered."""
        self._send(_CLOSE, code.to_bytes(2) + reason.encode())

    def drop(self) -> None:
        """End the connection without a word."""
        reset(self._writer)


def upgrade(request: Request, serve: Callable[[WebSocket], Awaitable[None]]) -> Upgrade:
    """The answer to a client that asks for a WebSocket; `serve` has it until it returns."""
    key = request.headers["sec-websocket-key"] + _GUID
    accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest()).decode()

    async def take_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(WebSocket(reader, writer))

    return Upgrade({"Sec-WebSocket-Accept": accept}, take_over)
