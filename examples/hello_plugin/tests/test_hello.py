"""The plugin held to chatbridge's contracts. This is all that a plugin author has to write to use the kit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chatbridge_hello.model import Imitator, imitator
from chatbridge_hello.service import serving

from chatbridge import Backend, Bot, LocalModel
from chatbridge.testing import (
    BackendContract,
    FrontendContract,
    LocalModelContract,
    Room,
    ScriptedBackend,
    bridge_with,
    scripted,
    worker_with,
)


class TestImitator(LocalModelContract):
    @pytest.fixture
    def model(self) -> LocalModel:
        return Imitator(letters=4)


class TestImitatorInAWorker(BackendContract):
    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        async with worker_with(imitator) as backend:
            yield backend


class Line:
    """A person at the other end of a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, text: str) -> None:
        self._writer.write(json.dumps({"text": text}).encode() + b"\n")
        await self._writer.drain()

    async def hear(self) -> str:
        heard: str = json.loads(await self._reader.readline())["text"]
        return heard

    async def leave(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


class TestLines(FrontendContract):
    @asynccontextmanager
    async def room(self, bot: Bot) -> AsyncIterator[Room]:
        async with serving(bot, "127.0.0.1", 0) as server:
            person = Line(*await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1 << 20))
            try:
                yield person
            finally:
                await person.leave()


async def test_hello_is_said_in_the_language_of_the_person(tmp_path: Path) -> None:
    import chatbridge_hello

    backend = scripted(ScriptedBackend("never asked"))
    async with bridge_with(backend, tmp_path / "store", plugins=[chatbridge_hello]) as bridge:
        assert set(bridge.plugins.backends) == {"scripted", "imitator"}
        assert "letter" in bridge.plugins.templates
        from chatbridge import Author, Channel, Message, Notice

        message = Message("1", Channel("c"), Author("x", "Ann"), "/hello")
        assert await bridge.bot("bot").receive(message) == Notice("Hello, Ann!")
