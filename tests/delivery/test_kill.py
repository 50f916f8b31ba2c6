"""The program is killed at random moments while twenty chats are busy; each message is answered, once or marked."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from chatbridge.delivery.chat import Limits
from chatbridge.delivery.parts import parts_of
from chatbridge.store import Inbox, Store
from chatbridge.store.queue import Queue
from chatbridge.texts import say

from .echo import echo
from .victim import CHATS, update

VICTIM = Path(__file__).with_name("victim.py")
LENGTH = 150
MARK = say("en", "maybe_duplicate") + "\n"


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
    marked = 0
    chats = shown(service)
    for chat in range(CHATS):
        numbers = [number for number in range(1, taken_in + 1) if number % CHATS == chat]
        marked += judge(list(chats.get(f"c{chat}", {}).values()), numbers, kills)
    assert marked <= kills * CHATS


def judge(texts: list[str], numbers: list[int], kills: int) -> int:
    """Whether a chat shows all answers; how many messages are marked as possible duplicates."""
    limits = Limits(LENGTH, parts=50)
    expected = [part.text for number in numbers for part in parts_of(echo(update(number).text), limits)]
    plain = Counter(text for text in texts if not text.startswith(MARK))
    marked = Counter(text.removeprefix(MARK) for text in texts if text.startswith(MARK))
    for text in expected:
        assert plain[text] <= 1, f"a silent duplicate: {text!r}"
        assert plain[text] + marked[text] >= 1, f"lost: {text!r}"
    # Nothing else is there, but for placeholders sent in the very moment of a kill.
    others = set(plain) | set(marked)
    assert others - set(expected) <= {"…"}
    assert plain["…"] <= kills
    order = [text.removeprefix(MARK) for text in texts]
    positions = [order.index(text) for text in expected]
    assert positions == sorted(positions)
    return marked.total()


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
