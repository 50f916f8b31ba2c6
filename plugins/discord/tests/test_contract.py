"""The Discord frontend, held to the contract of all frontends by the real library and the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chatbridge import Bot
from chatbridge.testing import DiscordServer, FrontendContract, Room
from chatbridge.testing.discord.state import Channel

from .conftest import serving


class Reader:
    """What one person in one private chat says and reads."""

    def __init__(self, server: DiscordServer, channel: Channel) -> None:
        self._server, self._channel = server, channel

    async def say(self, text: str) -> None:
        await self._server.say(self._channel, text)

    async def hear(self) -> str:
        messages = await self._server.next_answer_messages(self._channel, within=30)
        return "\n".join(message.text for message in messages)


@pytest.mark.timeout(120)
class TestFrontend(FrontendContract):
    @pytest.fixture(autouse=True)
    def _server(self, roomy: DiscordServer) -> None:
        self.server = roomy

    @asynccontextmanager
    async def room(self, bot: Bot) -> AsyncIterator[Room]:
        async with serving(self.server, bot, max_parts=50):
            yield Reader(self.server, self.server.dm())
