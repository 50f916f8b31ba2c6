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
from chatbridge.store import Cursors, Store
from chatbridge.store.queue import Queue
from chatbridge.testing import check_answers

from .echo import echo
from .program_to_kill import CHATS, update

PROGRAM = Path(__file__).with_name("program_to_kill.py")
LENGTH = 150
PLACEHOLDER = "…"


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
@pytest.mark.timeout(900)
async def test_each_message_is_answered_and_no_answer_is_doubled_in_silence(tmp_path: Path, scale: int) -> None:
    lives = [tmp_path / name for name in ("one", "other")]
    for folder in lives:
        folder.mkdir()
    # Side by side, since a program takes longer to start than to be killed.
    await asyncio.gather(*(live(folder, 5 * scale, seed) for seed, folder in enumerate(lives, start=12)))


async def live(folder: Path, kills: int, seed: int) -> None:
    """A program is killed so often, then answers what is left; what people read is checked."""
    chance = random.Random(seed)
    store, service = folder / "store.sqlite3", folder / "service.jsonl"
    for _ in range(kills):
        await run(store, service, calls=chance.randrange(1, 250))
    await run(store, service, calls=None)

    opened = await Store.open(store)
    taken_in = await Cursors(opened).get("bot", "updates") or 0
    assert await Queue(opened).entries() == []
    await opened.aclose()
    assert taken_in > kills / 2
    marked, limits = 0, Limits(LENGTH, max_messages=50)
    chats = shown(service)
    for chat in range(CHATS):
        numbers = [number for number in range(1, taken_in + 1) if number % CHATS == chat]
        texts = list(chats.get(f"c{chat}", {}).values())
        expected = [content.text for number in numbers for content in split_answer(echo(update(number).text), limits)]
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
        sys.executable, PROGRAM, store, service, str(LENGTH), *last, stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    if calls is not None:
        for _ in range(calls):
            assert await program.stdout.readline(), "the program ended by itself"
        program.kill()
    await program.stdout.read()
    assert await program.wait() == (-9 if calls is not None else 0)
