"""Tokens are reserved before an answer and settled after it; limits keep to a time that is never set back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from chatbridge import (
    Attachment,
    Author,
    BackendError,
    Bot,
    Channel,
    ChannelSettings,
    Message,
    Notice,
    Options,
    Press,
    ReplyStream,
    Request,
    Sampling,
    Turn,
    Usage,
)
from chatbridge.bots.quotas import QuotaExceeded, Quotas, Reservation, estimate
from chatbridge.config import Admins, BotSettings, Quota
from chatbridge.store import Store, UsageLog
from chatbridge.testing import EchoBackend, ScriptedBackend, bridge_with, channel_settings, scripted
from chatbridge.texts import say

from .conftest import first_words

ANN = Author("a", "Ann")
NOON = datetime(2026, 5, 4, 12, 0, 0).timestamp()
DAY = 86_400.0
_ids = iter(range(10**6))


@asynccontextmanager
async def serving(folder: Path, backend: EchoBackend | ScriptedBackend, **limits: int) -> AsyncIterator[Bot]:
    own = BotSettings("bot", "fake", Options(), limits=Quota(**limits))
    defaults = channel_settings(sampling={"max_tokens": 20})
    async with bridge_with(scripted(backend), folder / "db", defaults=defaults, bots=[own]) as bridge:
        yield bridge.bot("bot")


async def ask(bot: Bot, place: str, author: Author = ANN, text: str = "hello", kind: Any = "private") -> Any:
    return await bot.receive(Message(str(next(_ids)), Channel(place, kind=kind), author, text, mentions_bot=True))


async def said(stream: object) -> str:
    assert isinstance(stream, ReplyStream)
    return "".join([chunk.text async for chunk in stream])


async def used(bot: Bot) -> int:
    return sum(one.tokens for one in await bot.permissions.usage.of_day("bot", f"{datetime.now():%Y-%m-%d}"))


async def test_many_questions_at_once_pass_no_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, EchoBackend(lambda question: "word " * 4), tokens_per_day=60) as bot:
        results = await asyncio.gather(*(ask(bot, f"c{number}") for number in range(40)))
        streams = [one for one in results if isinstance(one, ReplyStream)]
        assert len(streams) == 3  # 20 tokens each, and a little for the question
        notices = {one.text for one in results if isinstance(one, Notice)}
        assert notices == {say("en", "tokens_reserved", limit=60)}
        await asyncio.gather(*map(said, streams))
        assert 0 < await used(bot) <= 60
        assert bot.permissions.quotas.reserved(ANN) == 0
        assert isinstance(await ask(bot, "later"), ReplyStream), "what was not used is there again"


async def test_what_a_long_conversation_adds_is_reserved_as_soon_as_it_is_known(tmp_path: Path) -> None:
    backend = ScriptedBackend("one", "two words")
    async with serving(tmp_path, backend, tokens_per_day=5000) as bot:
        store = bot.services.store
        conversation = await bot.dialogue(Channel("c")).conversation()
        await store.append(conversation.id, "user", "x" * 3000, parent=None)
        stream = await ask(bot, "c")
        assert bot.permissions.quotas.reserved(ANN) < 100
        async with aclosing(aiter(stream)) as chunks:
            await first_words(chunks)
            assert bot.permissions.quotas.reserved(ANN) > 1000


@pytest.mark.parametrize("end", ["fails", "is stopped", "is given up", "is never begun"])
async def test_what_comes_to_nothing_is_given_back(tmp_path: Path, end: str) -> None:
    backend = ScriptedBackend(BackendError("broken") if end == "fails" else "one two three")
    async with serving(tmp_path, backend, tokens_per_day=30) as bot:
        stream = await ask(bot, "c")
        assert bot.permissions.quotas.reserved(ANN) > 20
        if end == "fails":
            with pytest.raises(BackendError):
                await said(stream)
        elif end == "is stopped":
            stream.stop()
            assert await said(stream) == ""
        elif end == "is given up":
            async with aclosing(aiter(stream)) as chunks:
                await first_words(chunks)
        del stream
        assert bot.permissions.quotas.reserved(ANN) == 0


async def test_what_the_end_of_the_program_interrupts_reserves_anew(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedBackend("one two three"), tokens_per_day=50) as bot:
        again = await bot.receive(Message("m", Channel("c"), ANN, "hello"), redelivered=True)
        assert isinstance(again, ReplyStream)
        assert bot.permissions.quotas.reserved(ANN) > 20
        other = await ask(bot, "other", text="x" * 90)
        assert isinstance(other, ReplyStream)
        assert isinstance(await ask(bot, "third"), Notice)


async def test_a_button_reserves_like_a_message(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedBackend("one", "two"), tokens_per_day=1000) as bot:
        await said(await ask(bot, "c"))
        node = (await bot.dialogue(Channel("c")).path())[-1].id
        await bot.message_index.note("bot", "c", "shown", node)
        again = await bot.press(Press("regenerate", "shown", Channel("c"), ANN))
        assert isinstance(again, ReplyStream)
        assert bot.permissions.quotas.reserved(ANN) > 20


async def test_those_who_write_in_a_chats_name_share_one_quota_there(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedBackend("one"), messages_per_minute=1) as bot:
        hidden = [Author(f"-100{number}", "Channel", anonymous=True) for number in range(3)]
        answers = [await ask(bot, "g", one, kind="group") for one in hidden]
        assert [isinstance(one, ReplyStream) for one in answers] == [True, False, False]
        assert isinstance(await ask(bot, "other", hidden[0], kind="group"), ReplyStream)
        assert isinstance(await ask(bot, "g", ANN, kind="group"), ReplyStream)


def test_what_an_answer_may_cost_is_its_limit_and_all_that_is_read_for_it() -> None:
    settings = ChannelSettings(system="s" * 31, sampling=Sampling(max_tokens=20))
    files = tuple(Attachment("f", "text/plain", b"12345") for _ in range(2))
    message = Message("1", Channel("c"), ANN, "文字" * 2, attachments=files)
    assert estimate(message, settings, 100) == 20 + 10 + 100 + 4 + 3
    assert estimate(Press("continue", "1", Channel("c"), ANN), settings, 100) == 20 + 10 + 100
    assert estimate(message, ChannelSettings(sampling=Sampling(max_tokens=20)), 0) == 20 + 4 + 3


# --- the clock -------------------------------------------------------------------------------------------------------


class Times:
    """A clock that people set, and a time that only goes on."""

    def __init__(self) -> None:
        self.wall, self.steady = NOON, 0.0

    def pass_by(self, seconds: float, leap: float = 0.0) -> None:
        self.steady += seconds
        self.wall += seconds + leap


@asynccontextmanager
async def quotas(folder: Path, times: Times) -> AsyncIterator[Quotas]:
    store = await Store.open(folder / "db")
    try:
        yield Quotas("bot", UsageLog(store), lambda: times.wall, lambda: times.steady)
    finally:
        await store.aclose()


async def test_a_limit_of_a_minute_is_told_once_until_there_is_room_again(tmp_path: Path) -> None:
    times, quota = Times(), Quota(messages_per_minute=2)
    async with quotas(tmp_path, times) as limits:
        for seconds in (0.0, 10.0):
            times.pass_by(seconds)
            assert isinstance(await limits.reserve(ANN, quota, 1), Reservation)
        for seconds, wait, told in ((0.0, 50, False), (0.0, 50, True), (49.5, 1, True)):
            times.pass_by(seconds)
            assert await limits.reserve(ANN, quota, 1) == QuotaExceeded("messages_per_minute", 2, wait, told)
        assert isinstance(await limits.reserve(Author("b", "Ben"), quota, 1), Reservation)
        times.pass_by(0.5)
        assert isinstance(await limits.reserve(ANN, quota, 1), Reservation)
        assert await limits.reserve(ANN, quota, 1) == QuotaExceeded("messages_per_minute", 2, 10, False)


async def test_where_both_are_limited_either_is_kept_to(tmp_path: Path) -> None:
    quota = Quota(messages_per_minute=1, tokens_per_day=10)
    async with quotas(tmp_path, Times()) as limits:
        await limits.settle(ANN, Usage(prompt=9))
        last = await limits.reserve(ANN, quota, 5)
        assert isinstance(last, Reservation)
        assert last.tokens == 1, "the last token is anybody's"
        last.tokens = 0
        assert await limits.reserve(ANN, quota, 5) == QuotaExceeded("messages_per_minute", 1, 60, False)


async def test_of_a_day_what_is_left_is_reserved_and_what_it_cost_is_counted(tmp_path: Path) -> None:
    times, quota = Times(), Quota(tokens_per_day=10)
    async with quotas(tmp_path, times) as limits:
        first, second = [await limits.reserve(ANN, quota, tokens) for tokens in (4, 100)]
        assert isinstance(first, Reservation)
        assert isinstance(second, Reservation)
        assert (first.tokens, second.tokens, limits.reserved(ANN)) == (4, 6, 10)
        assert await limits.reserve(ANN, quota, 1) == QuotaExceeded("tokens_reserved", 10, 1, False)
        await limits.settle(ANN, Usage(prompt=9, cached=5, generated=3), first)
        assert limits.reserved(ANN) == 6
        await limits.settle(ANN, Usage(prompt=1, generated=2), second)
        assert await limits.reserve(ANN, quota, 1) == QuotaExceeded("tokens_per_day", 10, 12 * 3600, False)
        assert await limits.reserve(ANN, quota, 1) == QuotaExceeded("tokens_per_day", 10, 12 * 3600, True)
        assert isinstance(await limits.reserve(ANN, Quota(), 5), Reservation)
        assert limits.reserved(ANN) == 0, "where nothing is limited, nothing is reserved"


STEPS = st.lists(st.tuples(st.floats(0, 90), st.floats(-3000 * DAY, 3000 * DAY)), max_size=12)


@tried(max_examples=25, deadline=None)
@given(STEPS)
@example([(68.9268137132925, 0.0), (0.0, 0.0), (0.0, 0.0)])  # rounding
@example([(0.0, 0.0), (59.9999, 0.0)])
def test_a_clock_that_is_set_changes_no_limit_of_a_minute(steps: list[tuple[float, float]]) -> None:
    async def run() -> None:
        times, quota, asked = Times(), Quota(messages_per_minute=2), [0.0]
        limits = Quotas("bot", None, lambda: times.wall, lambda: times.steady)  # type: ignore[arg-type]
        assert isinstance(await limits.reserve(ANN, quota, 1), Reservation)
        for seconds, leap in steps:
            times.pass_by(seconds, leap)
            result = await limits.reserve(ANN, quota, 1)
            admitted = len([at for at in asked if at + 60 - times.steady > 0]) < 2
            assert isinstance(result, Reservation) is admitted
            if admitted:
                asked.append(times.steady)
            else:
                assert isinstance(result, QuotaExceeded)
                assert 0 < result.seconds <= 60

    asyncio.run(run())


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("ahead", [0, 1, 3 * 365])
async def test_setting_the_clock_back_frees_nobody_and_locks_nobody_out(
    tmp_path: Path, ahead: int, restart: bool
) -> None:
    times, quota = Times(), Quota(tokens_per_day=10)
    times.wall += ahead * DAY
    async with quotas(tmp_path, times) as limits:
        await limits.settle(ANN, Usage(prompt=10))
        assert isinstance(await limits.reserve(ANN, quota, 1), QuotaExceeded)
        times.wall = NOON
        if not restart:
            assert isinstance(await limits.reserve(ANN, quota, 1), QuotaExceeded)
    async with quotas(tmp_path, times) as limits:
        exceeded = await limits.reserve(ANN, quota, 1)
        assert isinstance(exceeded, QuotaExceeded)
        assert exceeded.seconds == 12 * 3600
        times.pass_by(12 * 3600)
        assert isinstance(await limits.reserve(ANN, quota, 1), Reservation)


async def test_where_nothing_limits_somebody_nothing_is_reserved_for_them(tmp_path: Path) -> None:
    own = BotSettings("bot", "fake", Options(), limits=Quota(tokens_per_day=5), admins=Admins(users={"boss"}))
    async with bridge_with(
        scripted(ScriptedBackend("one")), tmp_path / "db", bots=[own, replace(own, name="b", limits=Quota())]
    ) as bridge:
        limited, free = bridge.bot("bot").permissions, bridge.bot("b").permissions
        for permissions, author in ((limited, Author("boss", "Boss")), (free, ANN)):
            held = await permissions.reserve(author, Channel("c"), 9, "en")
            assert isinstance(held, Reservation)
            assert (held.tokens, permissions.quotas.reserved(author)) == (0, 0)
        held = await limited.reserve(ANN, Channel("c"), 9, "en")
        assert isinstance(held, Reservation)
        assert (held.tokens, limited.quotas.reserved(ANN)) == (5, 5)


async def test_where_the_reader_of_a_reservation_finds_none_it_stays_none() -> None:
    nothing, some = Reservation(0), Reservation(1)
    request = Request((), turns=(Turn("user", "x" * 30), Turn("user", "y" * 60)), sampling=Sampling(max_tokens=20))
    for one in (nothing, some):
        one.raise_for(request)
    assert (nothing.tokens, some.tokens) == (0, 50)
    large = Reservation(99)
    large.raise_for(request)
    assert large.tokens == 99


async def test_what_was_used_by_a_clock_that_was_ahead_is_among_what_is_used_today(tmp_path: Path) -> None:
    times = Times()
    async with quotas(tmp_path, times) as limits:
        times.wall += 3 * DAY
        await limits.settle(ANN, Usage(prompt=10))
        times.wall = NOON
        await limits.settle(ANN, Usage(prompt=5))
        assert await limits._usage.tokens("bot", "a", "2026-05-04") == 15
