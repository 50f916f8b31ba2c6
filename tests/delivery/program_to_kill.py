"""A bot on a service that is a file of lines, each written before a call returns; a program made to be killed.

`program_to_kill.py STORE SERVICE LENGTH [last]`: answers updates one after another, from its store's cursor on;
with `last` it answers only what is left, and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from itertools import count
from pathlib import Path

from chatbridge import Author, Channel, Message
from chatbridge.delivery.chat import Limits, MessageContent
from chatbridge.delivery.clock import LoopClock
from chatbridge.delivery.delivery import Delivery
from chatbridge.store import Cursors
from chatbridge.testing import bridge_with, scripted

sys.path.insert(0, str(Path(__file__).parent))
from echo import EchoBackend  # run as a program, this file has no package

CHATS = 20
CLOCK = LoopClock()


def update(number: int) -> Message:
    """What somebody wrote; the same in each run."""
    chat, words = f"c{number % CHATS}", random.Random(number).randrange(1, 25)
    return Message(str(number), Channel(chat), Author("a", "Ann"), f"message {number} of {chat}: {words} words")


class FileChat:
    """A chat whose every change is a line of a file."""

    def __init__(self, file: int, chat: str) -> None:
        self._file = file
        self._chat = chat

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        id = f"{os.getpid()}-{next(_NUMBERS)}"
        await self._write("send", id, content.text)
        return id

    async def edit(self, message_id: str, content: MessageContent) -> None:
        await self._write("edit", message_id, content.text)

    async def delete(self, message_id: str) -> None:
        await self._write("delete", message_id, "")

    async def typing(self) -> None:
        return

    async def draft(self, draft_id: int, content: MessageContent) -> None:
        raise NotImplementedError

    async def _write(self, what: str, id: str, text: str) -> None:
        line = json.dumps({"chat": self._chat, "what": what, "id": id, "text": text})
        os.write(self._file, line.encode() + b"\n")
        os.write(1, b".\n")
        await CLOCK.sleep(0.001)  # a good moment to be killed: it is done, and nobody knows


_NUMBERS = count()


async def main(store: str, service: str, length: str, *last: str) -> None:
    file = os.open(service, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    limits = Limits(int(length), first_preview=0.005, preview_every=0.01, max_messages=50)
    chance = random.Random(os.getpid())
    backend = EchoBackend(pauses=lambda: chance.choice([0, 0, 0.001, 0.004]))
    async with (
        bridge_with(scripted(backend), Path(store)) as bridge,
        # It is killed all the time, and no message is to blame for that.
        Delivery(bridge.bot("bot"), lambda chat: FileChat(file, chat), limits, drain=100, tries=10**6) as delivery,
    ):
        await delivery.resume()
        if not last:
            for number in count((await Cursors(bridge.store).get("bot", "updates") or 0) + 1):
                assert await delivery.accept(update(number), cursor=("updates", number))
                while delivery.in_hand > 2 * CHATS:
                    await CLOCK.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
