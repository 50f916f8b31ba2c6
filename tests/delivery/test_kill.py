"""The program is killed at random moments while twenty chats are busy; each message is answered, once or marked."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import pytest

from chatbridge.delivery.chat import Limits
from chatbridge.delivery.contents import split_answer
from chatbridge.store import Inbox, Store
from chatbridge.store.queue import Queue
from chatbridge.testing import check_answers

from .echo import echo
from .victim import CHATS, update

VICTIM = Path(__file__).with_name("victim.py")
LENGTH = 150
PLACEHOLDER = "…"


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
@pytest.mark.timeout(900)
async def test_each_message_is_answered_and_no_answer_is_doubled_in_silence(tmp_path: Path, scale: int) -> None:
    chance = random.Random(12)
    store, service = tmp_path / "store.sqlite3", tmp_path / "service.jsonl"
    kills = 10 * scale
    for _ in range(kills):
        await run(store, service, calls=chance.randrange(1, 250))
    await run(store, service, calls=None)

    opened = await Store.open(store)
    taken_in = await Inbox(opened).mark("bot", "updates") or 0
    assert await Queue(opened).entries() == []
    await opened.aclose()
    assert taken_in > 5 * scale
    marked, limits = 0, Limits(LENGTH, parts=50)
    chats = shown(service)
    for chat in range(CHATS):
        numbers = [number for number in range(1, taken_in + 1) if number % CHATS == chat]
        texts = list(chats.get(f"c{chat}", {}).values())
        expected = [part.text for number in numbers for part in split_answer(echo(update(number).text), limits)]
        # Nothing else is there, but for placeholders sent in the very moment of a kill.
        marked += check_answers(texts, expected, strays=[PLACEHOLDER])[0]
        assert texts.count(PLACEHOLDER) <= kills
    assert marked <= kills * CHATS


def shown(service: Path) -> dict[str, dict[str, str]]:
    """What people see in each chat at last."""
    chats: dict[str, dict[str, str]] = {}
    for line in service.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            call = json.loads(line)
            messages = chats.setdefault(call["chat"], {})
            if call["what"] == "delete":
                del messages[call["id"]]
            else:
                assert call["what"] == "send" or call["id"] in messages
                messages[call["id"]] = call["text"]
    return chats


async def run(store: Path, service: Path, calls: int | None) -> None:
    """Run the program until it has made so many calls, then kill it; None: until it has answered what is left."""
    last = ["last"] if calls is None else []
    program = await asyncio.create_subprocess_exec(
        sys.executable, VICTIM, store, service, str(LENGTH), *last, stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    if calls is not None:
        for _ in range(calls):
            assert await program.stdout.readline(), "the program ended by itself"
        program.kill()
    await program.stdout.read()
    assert await program.wait() == (-9 if calls is not None else 0)
