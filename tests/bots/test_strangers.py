"""Strangers of a bot with `pairing`: each is told a code once, and however many come, they cost little."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest

from chatbridge import Author, Bot, Channel, Message, Notice, Options
from chatbridge.config import Admins, BotSettings, Strangers
from chatbridge.testing import ScriptedBackend, bridge_with, log_lines, scripted
from chatbridge.texts import say

NOON = datetime(2026, 5, 4, 12, 0, 0).timestamp()


class Time:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(folder: Path, time: Time, **strangers: float) -> AsyncIterator[Bot]:
    own = BotSettings(
        "bot", "fake", Options(), pairing=True, admins=Admins(users={"boss"}), strangers=Strangers(**strangers)
    )
    async with bridge_with(
        scripted(ScriptedBackend("one")), folder / "db", bots=[own], clock=time, monotonic=time
    ) as bridge:
        yield bridge.bot("bot")


_ids = iter(range(10**6))


async def write(bot: Bot, user: str) -> str | None:
    said = await bot.receive(Message(str(next(_ids)), Channel(f"p{user}"), Author(user, f"Name {user}"), "let me in"))
    assert said is None or isinstance(said, Notice)
    return said.text if said else None


async def test_a_stranger_is_told_one_code_and_seldom(tmp_path: Path) -> None:
    time = Time()
    async with serving(tmp_path, time, remind_minutes=60) as bot:
        told = [await write(bot, "x") for _ in range(30)]
        assert told[0] is not None
        assert told[1:] == [None] * 29
        time.now += 3000
        assert await write(bot, "x") is None
        time.now += 601
        assert await write(bot, "x") == told[0]
        time.now += 8 * 86_400
        assert await write(bot, "x") not in (None, told[0]), "a code that nobody used for a week is forgotten"
        assert len(await bot.permissions.pairings.all("bot")) == 1


async def test_a_crowd_of_strangers_fills_neither_the_chats_nor_the_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time = Time()
    async with serving(tmp_path, time, open_codes=5, notices_per_minute=3) as bot:
        told = [await write(bot, str(number)) for number in range(200)]
        assert sum(one is not None for one in told) == 3
        assert len(log_lines(caplog, "too many strangers")) == 1
        for minute in range(1, 10):
            time.now += 61
            told = [await write(bot, f"{minute}-{number}") for number in range(20)]
            assert sum(one is not None for one in told) == 3
        assert len(await bot.permissions.pairings.all("bot")) == 5
        assert say("en", "pairing_full") in told


async def test_those_who_have_a_code_can_still_be_let_in_when_there_are_too_many(tmp_path: Path) -> None:
    async with serving(tmp_path, Time(), open_codes=1) as bot:
        told = await write(bot, "x")
        assert told is not None
        assert await write(bot, "y") == say("en", "pairing_full")
        code = told.rpartition(" ")[2]
        assert await bot.permissions.pairings.pair("bot", code, "boss") is not None
        assert "/pair" in str(await write(bot, "z"))


async def test_whoever_is_let_in_no_longer_is_told_a_code_anew(tmp_path: Path) -> None:
    async with serving(tmp_path, Time()) as bot:
        assert await write(bot, "x") is not None
        boss = Message("b", Channel("b"), Author("boss", "Boss"), "/unpair x")
        assert await bot.receive(boss) == Notice(say("en", "unpaired", user="x"))
        assert await write(bot, "x") is not None


async def test_a_minute_and_what_is_kept_in_mind_are_over_when_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time = Time()
    async with serving(tmp_path, time, notices_per_minute=1, remind_minutes=2) as bot:
        told, warned = [], []
        for seconds, user in (
            (0, "a"),
            (0, "b"),
            (59, "c"),
            (1, "d"),
            (0, "e"),
            (0, "f"),
            (60, "a"),
            (0, "d"),
            (60, "a"),
        ):
            time.now += seconds
            told.append(await write(bot, user) is not None)
            warned.append(len(log_lines(caplog, "too many strangers")))
    assert told == [True, False, False, True, False, False, True, False, False]
    assert warned == [0, 1, 1, 1, 2, 2, 2, 2, 2]
