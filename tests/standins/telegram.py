"""python-telegram-bot, unmodified, pointed at a stand-in Telegram."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import telegram
from telegram import ext

from chatbridge.testing import TelegramServer
from chatbridge.testing.wire.changes import Changes


class Inbox:
    """What a bot is told, in order."""

    def __init__(self) -> None:
        self.got: list[telegram.Update] = []
        self._changes = Changes()

    async def put(self, update: telegram.Update, context: object) -> None:
        self.got.append(update)
        self._changes.tell()

    async def until(self, count: int = 1) -> telegram.Update:
        """Wait for so many updates in all, and give the last."""
        await self._changes.until(lambda: len(self.got) >= count, what=f"{count} updates")
        return self.got[count - 1]


def application(server: TelegramServer, token: str = "") -> ext.Application:
    """An application whose bot keeps what it is told in `bot_data["inbox"]`."""
    builder = ext.Application.builder().token(token or server.bot.token)
    built = builder.base_url(server.api_url).base_file_url(server.file_url).build()
    built.bot_data["inbox"] = Inbox()
    built.add_handler(ext.TypeHandler(telegram.Update, built.bot_data["inbox"].put))
    return built


@asynccontextmanager
async def polling(server: TelegramServer, token: str = "", **options: object) -> AsyncIterator[ext.Application]:
    """An application that is started, and hears of updates by polling."""
    app = application(server, token)
    async with app:
        await app.start()
        await app.updater.start_polling(**options)
        me = app.bot.username
        await server.until(lambda: [call for call in server.calls.to("getUpdates") if call.bot == me], what="a poll")
        try:
            yield app
        finally:
            await app.updater.stop()
            await app.stop()


@asynccontextmanager
async def bot(server: TelegramServer, token: str = "") -> AsyncIterator[telegram.Bot]:
    """A bot that only calls."""
    async with telegram.Bot(token or server.bot.token, server.api_url, server.file_url) as found:
        yield found
