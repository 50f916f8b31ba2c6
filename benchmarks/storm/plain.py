"""Bots as the libraries' own examples show them: they edit their message once a second while a model answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import discord
import telegram
from chatbridge_discord.redirect import Connector
from telegram import ext

from chatbridge import Author, Bot, Channel, Message, ReplyStream


async def on_discord(bot: Bot, token: str, api_url: str, gateway_url: str) -> None:
    """discord.py, which waits for rate limits by itself."""
    client = discord.Client(
        intents=discord.Intents(guilds=True, dm_messages=True), connector=Connector(api_url, gateway_url)
    )

    async def on_message(asked: discord.Message) -> None:
        if asked.author == client.user:
            return
        shown = await asked.reply("…")
        async for text in answers(bot, asked.id, asked.channel.id, asked.content):
            await shown.edit(content=text)

    client.event(on_message)
    async with client:
        await client.start(token)


async def on_telegram(bot: Bot, token: str, api_url: str, file_url: str) -> None:
    """python-telegram-bot, sending again after a RetryAfter."""

    async def patiently(call: Callable[[], Awaitable[telegram.Message]]) -> telegram.Message | None:
        while True:
            try:
                return await call()
            except telegram.error.RetryAfter as error:
                await asyncio.sleep(float(error.retry_after))  # type: ignore[arg-type]
            except telegram.error.BadRequest:
                return None

    async def answer(update: telegram.Update, context: object) -> None:
        asked = update.message
        assert asked is not None
        shown = await patiently(lambda: asked.reply_text("…"))
        assert shown is not None
        async for text in answers(bot, asked.message_id, asked.chat_id, asked.text or ""):
            await patiently(lambda text=text: shown.edit_text(text))  # type: ignore[misc]

    builder = ext.Application.builder().token(token).base_url(api_url).base_file_url(file_url)
    app = builder.concurrent_updates(True).build()
    app.add_handler(ext.MessageHandler(ext.filters.TEXT, answer))
    async with app:
        await app.start()
        assert app.updater is not None
        await app.updater.start_polling()
        await asyncio.Event().wait()


async def answers(bot: Bot, id: int, chat: int, asked: str) -> AsyncIterator[str]:
    """What there is of an answer once a second, and all of it in the end."""
    reply = await bot.receive(Message(str(id), Channel(str(chat)), Author("a", "A"), asked))
    assert isinstance(reply, ReplyStream)
    text, shown = "", time.monotonic()
    async for chunk in reply:
        text += chunk.text
        if text.strip() and time.monotonic() - shown > 1:
            yield text
            shown = time.monotonic()
    yield text


PLAIN: dict[str, Callable[..., Awaitable[None]]] = {"discord": on_discord, "telegram": on_telegram}
