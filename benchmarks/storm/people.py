"""The people of a storm and the stand-in service that they write on. Knows no bot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from chatbridge.testing import DiscordServer, TelegramServer

ASKED = (
    "How do I add a Telegram bot?",
    "What is a prompt template?",
    "How do I run the tests?",
    "Who are you?",
    "How do I add a Discord bot?",
    "How do I write a plugin?",
)
ALONE = 120.0
"""Seconds to wait for an answer to somebody who writes alone; the model is loaded with the first."""
UNCHANGED, LOOK = 3.0, 0.1
"""Seconds in which an answer that is whole does not change, and between two looks at all chats."""

PLACEHOLDER = "…"
NO_ANSWERS = ("getUpdates", "getMe", "deleteWebhook")


class Crowd:
    """`chats[0]` belongs to somebody who has the same talk alone. `address`: what a bot needs to come here.

    `ready`: waits until the bot hears what is said.
    """

    def __init__(
        self,
        service: str,
        server: Any,
        chats: list[Any],
        people: list[Any],
        address: dict[str, str],
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self.service, self.address, self._ready = service, address, ready
        self._server, self._chats, self._people = server, chats, people
        self._expected: list[str] = []

    async def talk_alone(self, messages: int) -> None:
        """Somebody asks one thing after the other, and what they are told is what all others should be told."""
        await self._ready()
        for number in range(messages):
            await self._server.say(self._chats[0], ASKED[number % len(ASKED)], author=self._people[0])
            await self._server.until(lambda wanted=number + 1: len(self._shown(0)) == wanted or None, within=ALONE)
        while self._expected != self._shown(0):  # the last answer may be shown while it is being written
            self._expected = self._shown(0)
            await asyncio.sleep(UNCHANGED)
        self._before = len(self._server.calls)

    async def write_all(self, messages: int) -> None:
        """All others ask at once."""
        for number in range(messages):
            for chat, person in list(zip(self._chats, self._people, strict=True))[1:]:
                await self._server.say(chat, ASKED[number % len(ASKED)], author=person)

    async def all_answered(self) -> None:
        """Wait until everybody reads what they should."""
        wanted = len(self._expected) * (len(self._chats) - 1)
        while self.right < wanted:  # noqa: ASYNC110 (each change would be too often)
            await asyncio.sleep(LOOK)

    @property
    def right(self) -> int:
        """How many answers of the others read as they should, in their place."""
        others = range(1, len(self._chats))
        return sum(
            shown == wanted for chat in others for shown, wanted in zip(self._shown(chat), self._expected, strict=False)
        )

    @property
    def calls(self) -> int:
        """How many calls a bot made in the storm."""
        return len([call for call in self._server.calls[self._before :] if call.name not in NO_ANSWERS])

    @property
    def refused(self) -> int:
        """How many of them were too many."""
        return sum(call.status == 429 for call in self._server.calls)

    @property
    def early(self) -> int:
        """How many were made though the bot had been told to wait."""
        return len(self._server.calls.early)

    def _shown(self, chat: int) -> list[str]:
        return [message.text for message in self._server.messages(self._chats[chat]) if message.text != PLACEHOLDER]


@asynccontextmanager
async def on_discord(count: int) -> AsyncIterator[Crowd]:
    """A crowd with private chats on Discord."""
    async with DiscordServer() as server:
        people = [server.add_person(f"person{number}") for number in range(count + 1)]
        address = {"token": server.bot.token, "api_url": server.api_url, "gateway_url": server.gateway_url}
        chats = [server.dm(person) for person in people]
        yield Crowd("discord", server, chats, people, address, lambda: server.gateway.until_connected(within=ALONE))


@asynccontextmanager
async def on_telegram(count: int) -> AsyncIterator[Crowd]:
    """A crowd with private chats on Telegram."""
    async with TelegramServer() as server:
        people = [server.add_person(f"Person{number}") for number in range(count + 1)]
        address = {"token": server.bot.token, "api_url": server.api_url, "file_url": server.file_url}
        chats = [server.private(person) for person in people]

        async def ready() -> None:
            """Telegram keeps what is said to a bot that is not there yet."""

        yield Crowd("telegram", server, chats, people, address, ready)


CROWDS: dict[str, Callable[[int], AbstractAsyncContextManager[Crowd]]] = {
    "discord": on_discord,
    "telegram": on_telegram,
}
