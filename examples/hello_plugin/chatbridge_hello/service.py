"""A chat service in one file: JSON lines over TCP, `{"text": "hello"}` in and out. Knows no model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from pydantic import Field

from chatbridge import Author, Bot, Channel, ChatbridgeError, FrontendType, Message, Notice, Options


class LinesOptions(Options):
    """Keys that a bot of the `lines` frontend accepts in bots.yaml."""

    host: Annotated[str, Field(description="The address to listen at.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="The port; 0 lets the system choose.")] = 7777


async def run(options: LinesOptions, bot: Bot) -> None:
    """Serve `bot` until cancelled."""
    async with serving(bot, options.host, options.port):
        await asyncio.Event().wait()


@asynccontextmanager
async def serving(bot: Bot, host: str, port: int) -> AsyncIterator[asyncio.Server]:
    """A server whose connections end with it: from Python 3.12.1 on, `async with server` would wait for them."""
    talks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(talk(bot, reader, writer))
        talks.add(task)
        task.add_done_callback(talks.discard)

    server = await asyncio.start_server(connected, host, port)
    try:
        yield server
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


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
