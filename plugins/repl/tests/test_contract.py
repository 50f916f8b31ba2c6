"""The talk at the prompt, held to what every frontend must do."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from chatbridge_repl.screen import Screen
from chatbridge_repl.session import Session
from chatbridge_repl.terminal import talk
from chatbridge_repl.waiting import Waiting
from rich.console import Console

from chatbridge import Author, Bot
from chatbridge.testing import FrontendContract


class Keyboard:
    """Types what it is told to; each time it is asked for more, what has come on the screen is one answer."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        self.console = Console(file=self._file, width=500)
        self._typed: asyncio.Queue[str] = asyncio.Queue()
        self._heard: asyncio.Queue[str] = asyncio.Queue()

    async def prompt_async(self) -> str:
        self._heard.put_nowait(self._file.getvalue())
        self._file.truncate(0)
        self._file.seek(0)
        return await self._typed.get()

    async def say(self, text: str) -> None:
        self._typed.put_nowait(text)

    async def hear(self) -> str:
        return await self._heard.get()


class TestRepl(FrontendContract):
    @asynccontextmanager
    async def room(self, bot: Bot) -> AsyncIterator[Keyboard]:
        keyboard = Keyboard()
        waiting = Waiting(io.StringIO(), "en")
        screen = Screen(keyboard.console, waiting, "en", status=False)
        session = Session(bot, screen, Author("terminal", "ann"), "en")
        await session.begin()
        talking = asyncio.create_task(talk(session, screen, keyboard))
        assert "talking to model" in await keyboard.hear()
        try:
            yield keyboard
        finally:
            talking.cancel()
            with suppress(asyncio.CancelledError):
                await talking
