"""What /stats tells, and to whom."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import Author, Channel, Chunk, Finish, Message, Notice, Options, Reply, Request, Usage
from chatbridge.config import Admins, BotSettings
from chatbridge.testing import ScriptedBackend, bridge_with, scripted
from chatbridge.texts import say

from .conftest import drained

DETAILS = {"threads": "4", "file": "/home/carol/models/secret-7b.gguf", "cache": "~/states", "other": "C:\\models"}


@pytest.mark.parametrize(
    ("author", "channel", "whole"),
    [
        (Author("7", "mallory"), Channel("c", kind="group"), False),
        (Author("7", "mallory"), Channel("c", kind="private"), False),
        (Author("1", "carol"), Channel("c", kind="group"), False),
        (Author("1", "carol"), Channel("c", kind="private"), True),
        (Author("7", "mallory"), Channel("c", kind="terminal"), True),
    ],
    ids=["anybody", "anybody alone", "an admin before others", "an admin alone", "whoever runs it"],
)
async def test_where_files_are_is_for_those_who_run_the_bot(
    tmp_path: Path, author: Author, channel: Channel, whole: bool
) -> None:
    own = BotSettings("bot", "fake", Options(), admins=Admins(users=frozenset({"1"})))
    backend = ScriptedBackend("one", info=replace(ScriptedBackend().info, details=DETAILS))
    async with bridge_with(scripted(backend), tmp_path / "store", bots=[own]) as bridge:
        bot = bridge.bot("bot")
        await drained(await bot.receive(Message("1", channel, author, "hello")))
        told = await bot.receive(Message("2", channel, author, "/stats"))
    assert isinstance(told, Notice)
    assert "threads: 4" in told.text
    shown = [value in told.text for value in DETAILS.values() if value != "4"]
    assert shown == [whole] * 3


class Thinker(ScriptedBackend):
    """Its answers have had a thought, which its template knows nothing of."""

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        reply = Reply("yes", (1, 2), "", self.info.vocabulary, "hm", "<think> </think> ")
        yield Chunk("yes")
        yield Chunk(finish=Finish("end", reply, Usage(prompt=9, generated=2, seconds=1.0)))


async def test_how_many_answers_went_back_otherwise_than_they_were_sampled_is_told(tmp_path: Path) -> None:
    channel, author = Channel("c"), Author("1", "carol")
    told = []
    async with bridge_with(scripted(Thinker()), tmp_path / "store") as bridge:
        bot = bridge.bot("bot")
        for number in range(3):
            await drained(await bot.receive(Message(f"{number}", channel, author, "hello")))
            stats = await bot.receive(Message(f"s{number}", channel, author, "/stats"))
            assert isinstance(stats, Notice)
            told.append([count for count in (1, 2) if say("en", "stats_rewritten", count=count) in stats.text])
    assert told == [[], [1], [2]]
