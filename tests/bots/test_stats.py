"""What /stats tells, and to whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import Author, Channel, Message, Notice, Options
from chatbridge.config import Admins, BotSettings
from chatbridge.testing import ScriptedBackend, bridge_with, scripted

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
