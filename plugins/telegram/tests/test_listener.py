"""The webhook's listener and strangers: nothing of theirs is read behind the head, and nothing of theirs lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from chatbridge_telegram import listener as module
from chatbridge_telegram.listener import MAX_BYTES, MAX_HEAD, Listener

TAKEN: list[dict[str, object]] = []
GOOD = "x-telegram-bot-api-secret-token: s\r\n"


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async def take(update: dict[str, object]) -> bool:
        TAKEN.append(update)
        return True

    TAKEN.clear()
    async with Listener("127.0.0.1", 0, "https://example.org/hook", "s", take) as listener:
        yield listener


def head(headers: str, method: str = "POST", path: str = "/hook") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: h\r\n{headers}\r\n".encode()


async def said(listener: Listener, *pieces: bytes, end: bool = False) -> bytes:
    """All that the listener says to these, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    if end:
        writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:  # it has closed without reading all
        return b"reset"
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head("content-length: 1000\r\n"), 403),
        (head("x-telegram-bot-api-secret-token: t\r\ncontent-length: 1000\r\n"), 403),
        (head(GOOD + "content-length: 1000\r\n", path="/other"), 404),
        (head(GOOD + "content-length: 1000\r\n", method="PUT"), 405),
        (head(GOOD + f"content-length: {MAX_BYTES + 1}\r\n"), 413),
        (head(GOOD + "content-length: 99999999999999999999\r\n"), 413),
    ],
)
async def test_who_is_refused_is_refused_before_the_body(listener: Listener, request_: bytes, status: int) -> None:
    answer = await said(listener, request_)  # the body never comes
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in answer.lower()
    assert answer.endswith(module.REFUSALS[status].encode())
    assert not TAKEN


async def test_a_body_without_a_length_is_read_up_to_the_limit(listener: Listener) -> None:
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    answer = await said(listener, head(GOOD + "transfer-encoding: chunked\r\n"), *[chunk] * 5)
    assert answer == b"reset" or answer.startswith(b"HTTP/1.1 413 ")
    assert not TAKEN


async def test_json_that_is_too_deep_is_refused(listener: Listener) -> None:
    body = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    answer = await said(listener, head(GOOD + f"content-length: {len(body)}\r\n") + body, end=True)
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_who_asks_whether_to_go_on_is_told(listener: Listener) -> None:
    asked = head(GOOD + "content-length: 16\r\nexpect: 100-continue\r\n")
    answer = await said(listener, asked, b'{"update_id": 1}', end=True)
    assert answer.startswith(b"HTTP/1.1 100 ")
    assert b"HTTP/1.1 200 " in answer
    assert TAKEN == [{"update_id": 1}]


@pytest.mark.parametrize(
    ("name", "pieces", "answer"),
    [
        ("HEAD_SECONDS", [b""], b""),
        ("HEAD_SECONDS", [b"POST /hook HTTP/1.1\r\nx: "], b""),
        ("BODY_SECONDS", [head(GOOD + "content-length: 10\r\n"), b"{"], b"HTTP/1.1 408 "),
    ],
)
async def test_who_is_slow_is_left(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, name: str, pieces: list[bytes], answer: bytes
) -> None:
    monkeypatch.setattr(module, name, 0.05)
    assert (await said(listener, *pieces))[:13] == answer
    assert not TAKEN


async def test_a_head_that_does_not_end_is_not_kept(listener: Listener) -> None:
    assert await said(listener, b"POST /hook HTTP/1.1\r\n", b"x: " + b"y" * MAX_HEAD * 2) in (b"", b"reset")


async def test_connections_are_counted(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    held = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(2)]
    assert await said(listener) == b""
    for _, writer in held:
        writer.write(head(""))
    for reader, writer in held:
        assert (await reader.read()).startswith(b"HTTP/1.1 403 ")
        writer.close()
    assert (await said(listener, head(""))).startswith(b"HTTP/1.1 403 ")


async def test_strangers_do_not_fill_the_log(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            await said(listener, head(""))
    assert len(caplog.records) == 1
