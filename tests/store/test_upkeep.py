"""What is old is deleted while the store is in use: in small steps, nothing that is in use, and no word stays."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chatbridge.config import Keep
from chatbridge.errors import StoreError
from chatbridge.store import Inbox, MessageIndex, NewOutboxMessage, Outbox, Store, UsageLog, upkeep
from chatbridge.store.upkeep import Upkeep
from chatbridge.types import Author, Channel, Message

DAY = 86_400.0
ANN = Author("ann", "Ann")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "test.db")
    yield store
    await store.aclose()


@dataclass
class Clock:
    """Seconds since the epoch, so many days from now."""

    days: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.days * DAY


@dataclass
class Case:
    """An upkeep whose time and whose bots' work are set by the test."""

    store: Store
    keep: Keep
    clock: Clock = field(default_factory=Clock)
    busy: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        in_use = lambda bot, key: (bot, key) in self.busy  # noqa: E731
        self.upkeep = Upkeep(self.store, lambda: self.keep, in_use, clock=self.clock, pause=0)


async def said(store: Store, room: str, texts: int = 2, bot: str = "bot") -> int:
    """A conversation with so many messages; its id."""
    talk = await store.conversation(bot, room)
    parent = talk.head
    for number in range(texts):
        id = f"{room} {number}"
        place = {"service_id": id, "channel": room, "author": "ann"}
        parent = (await store.append(talk.id, "user", f"words {id}", parent=parent, **place)).id
    return talk.id


def files_with(folder: Path, words: bytes) -> list[Path]:
    """The store's files that hold these words."""
    return [file for file in folder.glob("test.db*") if words in file.read_bytes()]


async def test_unless_set_nothing_but_ids_of_answered_messages_goes(store: Store) -> None:
    inbox, outbox = Inbox(store), Outbox(store)
    items = [await inbox.add("bot", Message(id, Channel("room"), ANN, "hi")) for id in "123"]
    done, waiting, dead = (item.id for item in items if item)
    (row, failed) = await outbox.put("bot", "room", [NewOutboxMessage("send")] * 2, inbox_id=done)
    await outbox.delivered(row.id, "m")
    await outbox.failed(failed.id, "down", False)
    await inbox.dead_letter(dead, "too many tries")
    await UsageLog(store).add("bot", ANN, "2020-01-01", 5)
    await said(store, "room")
    case = Case(store, Keep())
    case.clock.days = 13
    assert not await case.upkeep.round()
    case.clock.days = 5000
    deleted = await case.upkeep.round()
    assert (deleted.answered, deleted.usage, deleted.conversations) == (2, 0, 0)
    assert [item.id for item in await inbox.open("bot")] == [waiting]
    states = await store.transaction(lambda db: db.execute("SELECT state FROM inbox UNION SELECT state FROM outbox"))
    assert {state for (state,) in states} == {"waiting", "dead", "failed"}
    assert await inbox.add("bot", Message("1", Channel("room"), ANN, "hi")) is not None


@pytest.mark.parametrize("step_seconds", [0.0, 1.0], ids=["small steps", "one step"])
async def test_a_row_from_a_clock_that_was_ahead_stays_and_holds_up_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch, step_seconds: float
) -> None:
    monkeypatch.setattr(upkeep, "STEP_SECONDS", step_seconds)
    inbox = Inbox(store)
    for number in range(60):
        item = await inbox.add("bot", Message(str(number), Channel("room"), ANN, "hi"))
        assert item is not None
        await inbox.finish(item.id)
    await store.execute("UPDATE inbox SET created = created + ? WHERE id <= 30", 4000 * DAY)
    case = Case(store, Keep(answered="1d"))
    case.clock.days = 2
    assert (await case.upkeep.round()).answered == 30


async def test_old_days_of_usage_go(store: Store) -> None:
    usage = UsageLog(store)
    days = ("2020-01-01", "2020-01-02", time.strftime("%Y-%m-%d"))
    for bot in ("one", "two"):
        for day in days:
            await usage.add(bot, ANN, day, 5)
    assert (await Case(store, Keep(usage="30d")).upkeep.round()).usage == 4
    assert await usage.tokens("two", "ann", days[2]) == 5


@pytest.mark.parametrize("years", [60, 1500, 3000, 999_999])
async def test_usage_that_is_kept_longer_than_a_calendar_goes_stays(store: Store, years: int) -> None:
    await UsageLog(store).add("bot", ANN, "2026-11-30", 5)
    assert (await Case(store, Keep(usage=f"{years}y")).upkeep.round()).usage == 0


async def test_a_conversation_goes_that_nobody_has_touched_and_the_chat_begins_anew(store: Store) -> None:
    old = await said(store, "room", 200)
    earlier = await said(store, "other")
    await store.start("bot", "other")
    case = Case(store, Keep(conversations="30d"))
    case.clock.days = 29
    assert not await case.upkeep.round()
    case.clock.days = 31
    deleted = await case.upkeep.round()
    assert (deleted.conversations, deleted.messages) == (3, 202)
    assert await store.conversations() == []
    assert await MessageIndex(store).find("bot", "room", "room 1") is None
    assert (await store.conversation("bot", "room")).id not in (old, earlier)
    (left,) = await store.transaction(lambda db: db.execute("SELECT count(*) FROM messages").fetchone())
    assert left == 0


async def test_one_that_was_gone_back_to_or_set_up_is_not_old(store: Store) -> None:
    ids = [await said(store, room) for room in ("back", "set", "old")]
    await store.execute("UPDATE nodes SET created = 5.0")
    await store.execute("UPDATE conversations SET created = 5.0, touched = 5.0")
    await store.make_current(ids[0])
    await store.set_overrides(ids[1], {"model": "m"})
    assert (await Case(store, Keep(conversations="1d")).upkeep.round()).conversations == 1
    assert {talk.id for talk in await store.conversations()} == set(ids[:2])


async def test_one_of_a_version_that_wrote_no_times_is_as_old_as_its_last_message(store: Store) -> None:
    await said(store, "room")
    await store.execute("UPDATE conversations SET created = 5.0, touched = 0")
    assert not await Case(store, Keep(conversations="1d")).upkeep.round()


async def test_a_conversation_in_use_stays(store: Store) -> None:
    for room in ("answered", "awaited", "awaited/ann", "awaitedly"):
        await said(store, room)
    await Inbox(store).add("bot", Message("1", Channel("awaited"), ANN, "hi"))
    case = Case(store, Keep(conversations="1d"), busy={("bot", "answered")})
    case.clock.days = 2
    assert (await case.upkeep.round()).conversations == 1
    assert {talk.channel for talk in await store.conversations()} == {"answered", "awaited", "awaited/ann"}


async def test_what_a_crash_leaves_of_a_conversation_goes_next_time(store: Store) -> None:
    id = await said(store, "room", 100)
    await store.execute("UPDATE conversations SET leaving = 1, current = 0, bot = '', channel = '' WHERE id = ?", id)
    deleted = await Case(store, Keep(conversations="1d")).upkeep.round()
    assert (deleted.conversations, deleted.messages) == (1, 100)


async def test_while_it_deletes_others_come_between(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "STEP_SECONDS", 0.0)  # a fast machine does much in a step
    await said(store, "room", 1500)
    case = Case(store, Keep(conversations="1d"))
    case.clock.days = 2
    round = asyncio.ensure_future(case.upkeep.round())
    seen = set()
    while not round.done():
        (left,) = await store.transaction(lambda db: db.execute("SELECT count(*) FROM nodes").fetchone())
        seen.add(left)
    assert (await round).messages == 1500
    assert len(seen) > 5, "steps are small, and others' turns come between them"
    check = await store.transaction(lambda db: db.execute("PRAGMA foreign_key_check").fetchall())
    assert check == []


async def test_freed_pages_go_back_and_no_word_is_left_in_the_files(store: Store, tmp_path: Path) -> None:
    await said(store, "room", 1)
    talk = await store.conversation("bot", "room")
    for number in range(200):
        await store.append(talk.id, "user", f"a secret word {number} " * 600, parent=None)
    assert files_with(tmp_path, b"secret word")
    before = (tmp_path / "test.db").stat().st_size + (tmp_path / "test.db-wal").stat().st_size
    case = Case(store, Keep(conversations="1d"))
    case.clock.days = 2
    assert (await case.upkeep.round()).pages
    assert not files_with(tmp_path, b"secret word")
    while await store.give_back(spare=0):
        pass
    assert await store.shrink_journal()
    assert not files_with(tmp_path, b"secret word")
    assert (tmp_path / "test.db").stat().st_size < before / 4


async def test_a_file_of_an_earlier_version_is_written_anew_once(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    store = await Store.open(path)
    await said(store, "room", 50)
    await store.aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
        db.execute("INSERT INTO nodes (conversation, role, text, created) VALUES (1, 'user', 'a secret word', 1.0)")
        db.execute("DELETE FROM nodes WHERE text = 'a secret word'")
    assert b"secret word" in path.read_bytes()
    store = await Store.open(path)
    try:
        assert b"secret word" not in path.read_bytes()
        assert await store.transaction(lambda db: db.execute("PRAGMA auto_vacuum").fetchone()) == (2,)
        assert len(await store.path(1)) == 50
        assert path.stat().st_mode & 0o077 == 0
    finally:
        await store.aclose()


async def test_one_that_another_program_reads_is_used_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "old.db"
    store = await Store.open(path)
    await said(store, "room", 5)
    await store.aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM nodes").fetchone()
        store = await Store.open(path)
        try:
            assert len(await store.path(1)) == 5
            assert not await store.shrink_journal()
        finally:
            await store.aclose()


async def kept(store: Store, *rows: float) -> int:
    """Answered messages that came so many days ago; how many SELECTs a round makes that keeps two days."""
    inbox = Inbox(store)
    for number, days in enumerate(rows):
        item = await inbox.add("bot", Message(str(number), Channel("room"), ANN, "hi"))
        assert item is not None
        await inbox.finish(item.id)
        await store.execute("UPDATE inbox SET created = created - ? WHERE id = ?", days * DAY, item.id)
    statements: list[str] = []
    assert store._connection is not None
    store._connection.set_trace_callback(statements.append)
    await Case(store, Keep(answered="2d")).upkeep.round()
    return sum("AS finished FROM inbox" in one for one in statements)


async def test_the_way_through_a_box_ends_where_nothing_is_old(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "CHUNK", 2)
    assert await kept(store, 5, 5, 1, 1, 1, 1, 1, 1) == 2
    assert len(await store.transaction(lambda db: db.execute("SELECT 1 FROM inbox").fetchall())) == 6


async def test_however_few_rows_are_looked_at_together_all_that_is_old_goes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CHUNK", 1)
    usage = UsageLog(store)
    for number in range(3):
        await said(store, f"room{number}")
        for bot in ("one", "two"):
            await usage.add(bot, ANN, f"2020-01-0{number + 1}", 5)
    case = Case(store, Keep(conversations="1d", usage="2d"))
    case.clock.days = 3
    deleted = await case.upkeep.round()
    assert (deleted.conversations, deleted.messages, deleted.usage) == (3, 6, 6)


async def test_a_step_does_as_much_as_its_time_allows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "STEP_SECONDS", 60.0)
    id = await said(store, "room", 100)
    statements: list[str] = []
    assert store._connection is not None
    store._connection.set_trace_callback(statements.append)
    await upkeep.delete_conversation(store, id)
    assert statements.count("COMMIT") == 2, "and once more, to see that nothing is left"


@pytest.mark.parametrize(
    ("keep", "there"),
    [
        (Keep(answered="1d"), (2, 3, 1)),
        (Keep(answered="forever", usage="2d"), (3, 2, 1)),
        (Keep(answered="forever", conversations="1d"), (3, 3, 1)),
    ],
    ids=["boxes", "usage", "conversations"],
)
async def test_after_each_step_it_rests(
    store: Store, monkeypatch: pytest.MonkeyPatch, keep: Keep, there: tuple[int, ...]
) -> None:
    monkeypatch.setattr(upkeep, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(upkeep, "CHUNK", 1)
    outbox, usage = Outbox(store), UsageLog(store)
    count = "SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM usage), sum(leaving) FROM conversations"
    for day, row in enumerate(await outbox.put("bot", "room", [NewOutboxMessage("delete", "m")] * 3), 1):
        await outbox.delivered(row.id, "")
        await usage.add("bot", ANN, f"2020-01-0{day}", 5)
    id = await said(store, "room")
    await store.execute("UPDATE conversations SET leaving = 1, current = 0, bot = '', channel = '' WHERE id = ?", id)
    for room in ("one", "two"):
        await store.start("bot", room)
    resting = asyncio.ensure_future(Upkeep(store, lambda: keep, clock=Clock(3), pause=3600.0).round())
    for _ in range(30):
        left = await store.transaction(lambda db: db.execute(count).fetchone())
    assert left == there
    resting.cancel()


async def test_the_messages_of_a_conversation_go_with_a_rest_between(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(upkeep, "CHUNK", 1)
    resting = asyncio.ensure_future(upkeep.delete_conversation(store, await said(store, "room", 3), 3600.0))
    for _ in range(30):
        (left,) = await store.transaction(lambda db: db.execute("SELECT count(*) FROM nodes").fetchone())
    assert left == 2
    resting.cancel()


class Looking(Store):
    """A store that counts how often somebody looks on."""

    looks = 0

    async def look_on(self) -> bool:
        self.looks += 1
        return self.looks < 3


async def test_each_round_comes_an_hour_after_the_one_before_and_rows_are_looked_over_first(tmp_path: Path) -> None:
    store, asked = await Looking.open(tmp_path / "looking.db"), []

    def keep() -> Keep:
        asked.append(store.looks)
        raise StoreError("a mistake")

    running = asyncio.ensure_future(Upkeep(store, keep, pause=0).run())
    for _ in range(30):
        await store.conversations()
    assert (asked, running.done()) == ([3], False)
    running.cancel()
    await store.aclose()
