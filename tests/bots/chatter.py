"""Talks in many rooms at once and prints a line for each message as soon as somebody could know that it is kept."""

from __future__ import annotations

import asyncio
import json
import sys
from itertools import count
from pathlib import Path

from chatbridge import Author, Bot, Channel, Message, ReplyStream
from chatbridge.testing import ScriptedBackend, bridge_with, scripted


async def chat(bot: Bot, room: str) -> None:
    for number in count():
        text = f"message {number} of {room}"
        turn = await bot.receive(Message(f"{room}-{number}", Channel(room), Author("a", "A"), text))
        assert isinstance(turn, ReplyStream)
        asked = False
        async for chunk in turn:
            if not asked:
                asked = True
                tell(room, "user", text)
            if chunk.finish is not None:
                tell(room, "assistant", chunk.finish.reply.text)


def tell(room: str, role: str, text: str) -> None:
    sys.stdout.write(json.dumps({"room": room, "role": role, "text": text}) + "\n")
    sys.stdout.flush()


async def main(file: str, *rooms: str) -> None:
    lines = [f"answer {i} has several words, one after another" for i in range(1000)]
    async with bridge_with(scripted(ScriptedBackend(*lines)), Path(file)) as bridge:
        await asyncio.gather(*(chat(bridge.bot("bot"), room) for room in rooms))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
