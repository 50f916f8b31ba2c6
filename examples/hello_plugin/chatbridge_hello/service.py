"""A chat service in one file: JSON lines over TCP, `{"text": "hello"}` in and out. Knows no model."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated

from pydantic import Field

from chatbridge import Author, Bot, Channel, ChatbridgeError, FrontendType, Message, Notice, Options


class LinesOptions(Options):
    """Keys that a bot of the `lines` frontend accepts in bots.yaml."""

    host: Annotated[str, Field(description="The address to listen at.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="The port; 0 lets the system choose.")] = 7777


async def run(options: LinesOptions, bot: Bot) -> None:
    """Serve `bot` until cancelled."""
    server = await asyncio.start_server(lambda reader, writer: talk(bot, reader, writer), options.host, options.port)
    async with server:
        await server.serve_forever()


async def talk(bot: Bot, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection is one channel."""
    host, port = writer.get_extra_info("peername")[:2]
    channel = Channel(f"{host}:{port}")
    try:
        while line := await reader.readline():
            said = {"text": await answer(bot, channel, json.loads(line)["text"])}
            writer.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")
            await writer.drain()
    finally:
        writer.close()


async def answer(bot: Bot, channel: Channel, text: str) -> str:
    """What the bot says to a text: a command's answer, a model's, or what went wrong."""
    message = Message(f"{time.time_ns()}", channel, Author("someone", "Someone"), text, sent_at=time.time())
    try:
        result = await bot.receive(message)
        if result is None or isinstance(result, Notice):
            return result.text if result else ""
        answered = "".join([chunk.text async for chunk in result if not chunk.thinking])
        return "\n".join([*result.notices, answered])
    except ChatbridgeError as error:
        return f"Sorry: {error}"


lines = FrontendType("lines", LinesOptions, "JSON lines over TCP, to try with netcat", run=run)
