"""A whole frontend on `Delivery`, made of public names alone, held to the contract of all frontends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

from chatbridge import (
    Author,
    Bot,
    Channel,
    Delivery,
    FrontendType,
    Limits,
    Message,
    MessageContent,
    Options,
    as_markdown,
)
from chatbridge.testing import FakeService, FrontendContract, Room, ServiceCall

CHANNEL = Channel("1")


class Post(FakeService):
    """A service whose messages come in by a queue, and which tells of each call."""

    def __init__(self) -> None:
        super().__init__(Limits(300, render=as_markdown, first_preview=0.0, preview_every=0.0, max_messages=1000))
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.called = asyncio.Event()

    async def handle(self, call: ServiceCall, act: Callable[[], None]) -> None:
        await super().handle(call, act)
        self.called.set()


async def run(options: Options, bot: Bot, service: Post) -> None:
    """Serve `bot` until cancelled."""
    async with Delivery(bot, service.chat, service.limits, drain=0.1) as delivery:
        await delivery.resume()
        while True:
            await delivery.accept(await service.incoming.get())


class FakeRoom:
    """What one person does and sees."""

    def __init__(self, service: Post) -> None:
        self._service = service
        self._numbers = count(1)
        self._read = 0

    async def say(self, text: str) -> None:
        await self._service.incoming.put(Message(str(next(self._numbers)), CHANNEL, Author("a", "Ann"), text))

    async def hear(self) -> str:
        async with asyncio.timeout(100):
            while not (contents := self._unread()) or not contents[-1].ends_answer:
                self._service.called.clear()
                await self._service.called.wait()
        self._read += len(contents)
        return "\n".join(content.text for content in contents)

    def _unread(self) -> list[MessageContent]:
        return list(self._service.messages.get(CHANNEL.id, {}).values())[self._read :]


class TestFrontendOnDelivery(FrontendContract):
    @asynccontextmanager
    async def room(self, bot: Bot) -> AsyncIterator[Room]:
        service = Post()
        frontend = FrontendType("post", Options, "for tests", run=lambda options, bot: run(options, bot, service))
        task = asyncio.create_task(frontend.run(Options(), bot))  # type: ignore[arg-type]
        try:
            yield FakeRoom(service)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert service.violations == []
