"""Who was let in, and what each person's answers have cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatbridge.store import DailyUsage, Pairings, Store, UsageLog
from chatbridge.store.access import LETTERS
from chatbridge.types import Author


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "test.db")
    yield store
    await store.aclose()


async def test_codes_are_ones_own_and_stay_the_same(store: Store) -> None:
    pairings = Pairings(store)
    ann, again, other = [
        await pairings.request("bot", author)
        for author in (Author("a", "Ann"), Author("a", "Anna \ud800"), Author("b", "B"))
    ]
    elsewhere = await pairings.request("other bot", Author("a", "Ann"))
    assert ann.code == again.code
    assert again.name == "Anna ?"
    assert len({ann.code, other.code, elsewhere.code}) == 3
    assert set(ann.code) <= set(LETTERS)
    assert len(ann.code) == 8
    paired = await pairings.pair("bot", ann.code, "boss")
    assert paired is not None
    assert (paired.user, paired.paired) == ("a", True)
    assert await pairings.paired("bot", "a")
    assert not await pairings.paired("other bot", "a")
    assert not await pairings.paired("bot", "b")
    assert await pairings.pair("bot", "b", "boss") is not None, "by id as well"
    assert [(one.user, one.paired) for one in await pairings.all("bot")] == [("a", True), ("b", True)]
    assert await pairings.unpair("bot", "a")
    assert not await pairings.unpair("bot", "a")
    assert not await pairings.paired("bot", "a")
    assert await pairings.unpair("bot", other.code.lower()), "by code as well"
    assert await pairings.all("bot") == []


async def test_usage_is_counted_for_each_bot_person_and_day(store: Store) -> None:
    usage = UsageLog(store)
    for bot, user, day, tokens in (
        ("bot", "a", "2026-05-04", 10),
        ("bot", "b", "2026-05-04", 20),
        ("bot", "a", "2026-05-04", 7),
        ("bot", "a", "2026-05-05", 1),
        ("other bot", "a", "2026-05-04", 5),
    ):
        await usage.add(bot, Author(user, f"{user} at {tokens}"), day, tokens)
    assert await usage.tokens("bot", "a", "2026-05-04") == 17
    assert await usage.tokens("bot", "c", "2026-05-04") == 0
    assert await usage.of_day("bot", "2026-05-04") == [
        DailyUsage("b", "b at 20", 20, 1),
        DailyUsage("a", "a at 7", 17, 2),
    ]
