"""The program is killed at random moments of many conversations; nothing that it had told anybody is lost."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from chatbridge.store import Store

CHATTER = Path(__file__).with_name("chatter.py")
ROOMS = 10


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
async def test_nothing_that_was_told_is_lost(tmp_path: Path, scale: int) -> None:
    """In 80 conversations, or 800: 8 runs of the program, or 80, with 10 rooms each."""
    chance = random.Random(9)
    file = tmp_path / "store.sqlite3"
    told: dict[str, list[dict[str, str]]] = defaultdict(list)
    for run in range(8 * scale):
        rooms = [f"{run}-{i}" for i in range(ROOMS)]
        for line in await run_and_kill(file, rooms, lines=chance.randrange(1, 120)):
            told[line["room"]].append(line)
        check_file(file)
    assert sum(map(len, told.values())) > 200 * scale
    store = await Store.open(file)
    for room, lines in told.items():
        conversation = await store.conversation("bot", room)
        kept = [(node.role, node.text) for node in await store.path(conversation.id)]
        heard = [(line["role"], line["text"]) for line in lines]
        assert kept[: len(heard)] == heard, room
        # At most one message more: one that was kept, and the program had no time to tell of.
        assert len(kept) - len(heard) <= 1
    await store.aclose()


async def run_and_kill(file: Path, rooms: list[str], lines: int) -> list[dict[str, str]]:
    """What the program told before it was killed, after so many lines."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, CHATTER, file, *rooms, stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    told = [await program.stdout.readline() for _ in range(lines)]
    program.kill()
    told += (await program.stdout.read()).splitlines(keepends=True)
    await program.wait()
    assert told[0], "the program ended by itself"
    return [json.loads(line) for line in told if line.endswith(b"\n")]


def check_file(file: Path) -> None:
    with sqlite3.connect(file) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()
