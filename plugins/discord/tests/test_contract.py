"""The Discord frontend, held to the contract of all frontends by the real library and the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chatbridge import Bot
from chatbridge.testing import DiscordServer, FrontendContract, Room
from chatbridge.testing.discord.state import Channel, Message

from .conftest import names, serving


class Reader:
    """What one person in one private chat says and reads."""

    def __init__(self, server: DiscordServer, channel: Channel) -> None:
        self._server, self._channel = server, channel
        self._read = 0

    async def say(self, text: str) -> None:
        await self._server.say(self._channel, text)

    async def hear(self) -> str:
        messages = await self._server.until(self._answer, within=30, what="a whole answer")
        self._read = messages[-1].id
        return "\n".join(message.text for message in messages)

    def _answer(self) -> list[Message] | None:
        unread = [message for message in self._server.messages(self._channel) if message.id > self._read]
        return unread if unread and is_last(unread[-1]) else None


def is_last(message: Message) -> bool:
    """Whether an answer ends here: a model's has other buttons than Stop, and all but its last part are long."""
    found = names(message)
    return found != ["stop"] if found else message.text != "…" and len(message.text) < 1500


@pytest.mark.timeout(120)
class TestFrontend(FrontendContract):
    @pytest.fixture(autouse=True)
    def _server(self, roomy: DiscordServer) -> None:
        self.server = roomy

    @asynccontextmanager
    async def room(self, bot: Bot) -> AsyncIterator[Room]:
        async with serving(self.server, bot, max_parts=50):
            yield Reader(self.server, self.server.dm())
