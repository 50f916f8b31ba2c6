"""The store's thread: what waits while it is busy is committed together, and nobody fails of another's work."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatbridge.errors import StoreError
from chatbridge.store import Cursors, Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "store.sqlite3")
    yield opened
    await opened.aclose()


def count_commits(store: Store) -> list[str]:
    """Each commit of the store from now on, once it is written."""
    commits: list[str] = []
    connection = store._connection
    assert connection is not None
    connection.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    return commits


async def test_what_comes_while_the_thread_is_busy_is_one_commit(store: Store) -> None:
    commits = count_commits(store)
    free = threading.Event()
    slow = asyncio.create_task(store.transaction(lambda db: free.wait(60)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it has begun
    cursors = Cursors(store)
    others = [asyncio.create_task(cursors.advance("bot", f"source {i}", i)) for i in range(50)]
    await asyncio.sleep(0)
    free.set()
    await asyncio.gather(slow, *others)
    assert len(commits) == 2
    assert len(await cursors.all("bot")) == 50


async def test_each_gets_its_own_error_and_the_others_are_written(store: Store, tmp_path: Path) -> None:
    cursors = Cursors(store)

    def fails(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO marks (bot, name, value) VALUES ('bot', 'half', 1)")
        raise StoreError("not this one")

    before, bad, after = await asyncio.gather(
        cursors.advance("bot", "before", 1),
        store.transaction(fails),
        cursors.advance("bot", "after", 2),
        return_exceptions=True,
    )
    assert (before, after) == (None, None)
    assert isinstance(bad, StoreError)
    other = sqlite3.connect(tmp_path / "store.sqlite3")
    assert dict(other.execute("SELECT name, value FROM marks")) == {"before": 1, "after": 2}
    other.close()


async def test_whoever_is_told_of_success_is_written_also_where_the_database_ends_the_transaction(store: Store) -> None:
    """A disk that is full in the middle of one work may have undone those before it: they fail as well."""
    cursors = Cursors(store)

    def ends_the_transaction(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    before, bad = await asyncio.gather(
        cursors.advance("bot", "before", 1), store.transaction(ends_the_transaction), return_exceptions=True
    )
    assert isinstance(before, StoreError)
    assert isinstance(bad, StoreError)
    await cursors.advance("bot", "after", 2)
    assert await cursors.all("bot") == {"after": 2}


async def test_a_work_is_run_once_though_another_fails(store: Store) -> None:
    runs: list[str] = []

    def fails(db: sqlite3.Connection) -> None:
        raise StoreError("not this one")

    await asyncio.gather(
        store.transaction(lambda db: runs.append("before")),
        store.transaction(fails),
        store.transaction(lambda db: runs.append("after")),
        return_exceptions=True,
    )
    assert runs == ["before", "after"]


async def test_nobody_is_told_before_the_commit(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "store.sqlite3")
    cursors = Cursors(store)

    async def told(i: int) -> bool:
        await cursors.advance("bot", f"{i}", i)
        return bool(other.execute("SELECT value FROM marks WHERE name = ?", (f"{i}",)).fetchone() == (i,))

    assert all(await asyncio.gather(*(told(i) for i in range(20))))
    other.close()


async def test_a_caller_that_is_cancelled_leaves_its_work_to_be_done(store: Store) -> None:
    cursors = Cursors(store)
    gone = asyncio.create_task(cursors.advance("bot", "a", 1))
    stays = asyncio.create_task(cursors.advance("bot", "b", 2))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert await cursors.all("bot") == {"a": 1, "b": 2}


async def test_a_work_that_ends_by_an_iterators_end_keeps_nobody_waiting(store: Store) -> None:
    """A future refuses to be given that error."""
    cursors = Cursors(store)
    works = (store.transaction(lambda db: next(iter(()))), cursors.advance("bot", "a", 1))
    ended, beside = await asyncio.wait_for(asyncio.gather(*works, return_exceptions=True), 60)
    assert isinstance(ended, RuntimeError)
    assert isinstance(ended.__cause__, StopIteration)
    assert beside is None
    assert await asyncio.wait_for(cursors.all("bot"), 60) == {"a": 1}


async def test_whoever_asks_a_closed_store_is_told_so(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "closed.sqlite3")
    await store.aclose()
    for _ in range(2):
        with pytest.raises(StoreError, match="closed already"):
            await asyncio.wait_for(store.conversation("bot", "room"), 60)
    await asyncio.wait_for(store.aclose(), 60)
