"""Servers that stand in for Discord and Telegram, and the real client libraries pointed at them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import discord
import pytest
import yarl

from chatbridge.testing import DiscordServer, TelegramServer
from chatbridge.testing.discord.limits import Limits
from chatbridge.testing.telegram.limits import Limits as TelegramLimits
from chatbridge.testing.wire.changes import Changes

from .conformity import breaches


@pytest.fixture
async def server() -> AsyncIterator[DiscordServer]:
    """With limits that are not reached unless faults do it."""
    async with DiscordServer(limits=Limits.generous()) as server:
        yield server


@pytest.fixture
async def service() -> AsyncIterator[TelegramServer]:
    """A Telegram, with limits that are not reached unless faults do it; all that it said was held against aiogram."""
    async with TelegramServer(limits=TelegramLimits.generous(), webhook_retry=0.01) as service:
        yield service
    assert breaches(service.calls) == []


class Client(discord.Client):
    """A bot that keeps what it is told; `tree` has its commands."""

    def __init__(self, **options: object) -> None:
        options = {"intents": discord.Intents.all(), "guild_ready_timeout": 0.1} | options
        super().__init__(**options)
        self.tree = discord.app_commands.CommandTree(self)
        self.got: list[discord.Message] = []
        self.seen: list[str] = []
        self.task: asyncio.Task[None] | None = None
        self._changes = Changes()

    def see(self, what: str) -> None:
        self.seen.append(what)
        self._changes.tell()

    async def until_got(self, count: int = 1) -> discord.Message:
        """Wait for so many messages in all, and give the last."""
        await self._changes.until(lambda: len(self.got) >= count, what=f"{count} messages")
        return self.got[count - 1]

    async def until_seen(self, *what: str) -> None:
        """Wait until events have been seen in this order, maybe with others between them."""

        def found() -> bool:
            events = iter(self.seen)
            return all(one in events for one in what)

        await self._changes.until(found, what=" and ".join(what))

    async def on_message(self, message: discord.Message) -> None:
        if message.author != self.user:
            self.got.append(message)
            self._changes.tell()

    async def on_ready(self) -> None:
        self.see("ready")

    async def on_resumed(self) -> None:
        self.see("resumed")

    async def on_disconnect(self) -> None:
        self.see("disconnect")


@asynccontextmanager
async def running(server: DiscordServer, client: Client | None = None, token: str = "") -> AsyncIterator[Client]:
    """A client that is logged in and ready; what ends it before is raised."""
    client = client or Client()
    base, gateway = discord.http.Route.BASE, discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY
    discord.http.Route.BASE = server.api_url
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(server.gateway_url)
    task = client.task = asyncio.create_task(client.start(token or server.bot.token))
    try:
        async with asyncio.timeout(100):
            ready = asyncio.create_task(client.wait_until_ready())
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if task.done():
                await task
        yield client
    finally:
        await client.close()
        discord.http.Route.BASE, discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = base, gateway
        if not task.done():
            await asyncio.wait({task}, timeout=5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
