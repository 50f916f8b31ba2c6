"""The Telegram frontend, held to the contract of all frontends by the real library and the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chatbridge import Bot
from chatbridge.testing import FrontendContract, Room, TelegramServer
from chatbridge.testing.telegram.state import Chat

from .conftest import serving


class Reader:
    """What one person in one chat says and reads."""

    def __init__(self, server: TelegramServer, chat: Chat) -> None:
        self._server, self._chat = server, chat

    async def say(self, text: str) -> None:
        await self._server.say(self._chat, text)

    async def hear(self) -> str:
        messages = await self._server.next_answer_messages(self._chat, within=30)
        return "\n".join(message.text for message in messages)


@pytest.mark.timeout(120)
class TestFrontend(FrontendContract):
    @pytest.fixture(autouse=True)
    def _server(self, roomy: TelegramServer) -> None:
        self.server = roomy

    @asynccontextmanager
    async def room(self, bot: Bot) -> AsyncIterator[Room]:
        async with serving(self.server, bot, max_parts=50):
            yield Reader(self.server, self.server.private())
