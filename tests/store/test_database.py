"""The open file: how it is set up, what its errors are called, and what is looked over when it opens."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from chatbridge.errors import StoreError, StoreFull, StoreInUse
from chatbridge.store import Store, database
from chatbridge.store.database import short_key
from chatbridge.store.lock import StoreLock
from chatbridge.store.schema import MIGRATIONS


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "test.db")
    yield store
    await store.aclose()


async def pragma(store: Store, name: str) -> object:
    found = await store.transaction(lambda db: db.execute(f"PRAGMA {name}").fetchone())
    return found[0]


def old_file(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as old:
        old.executescript(MIGRATIONS[0])
        old.execute("PRAGMA user_version = 1")
    return path


@pytest.mark.parametrize("shared", [False, True])
async def test_a_new_file_writes_ahead_keeps_references_and_gives_pages_back(tmp_path: Path, shared: bool) -> None:
    store = await Store.open(tmp_path / "new.db", shared=shared)
    try:
        assert await pragma(store, "journal_mode") == "wal"
        assert await pragma(store, "synchronous") == 1, "NORMAL"
        assert await pragma(store, "foreign_keys") == 1
        assert await pragma(store, "secure_delete") == 1
        assert await pragma(store, "auto_vacuum") == 2, "INCREMENTAL"
        assert await store.shrink_journal()
        assert await pragma(store, "busy_timeout") == 1000 * database.BUSY_SECONDS, "as before"
    finally:
        await store.aclose()


@pytest.mark.parametrize(("shared", "mode"), [(False, "wal"), (True, "delete")])
async def test_a_file_that_a_tool_has_set_otherwise_is_set_right_by_who_has_it_alone(
    tmp_path: Path, shared: bool, mode: str
) -> None:
    await (await Store.open(tmp_path / "test.db")).aclose()
    with closing(sqlite3.connect(tmp_path / "test.db")) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    store = await Store.open(tmp_path / "test.db", shared=shared)
    try:
        assert await pragma(store, "journal_mode") == mode
    finally:
        await store.aclose()


async def test_who_reads_beside_others_brings_an_old_file_up_to_date_only_where_nobody_is_there(tmp_path: Path) -> None:
    path = old_file(tmp_path / "old.db")
    held = StoreLock(path)
    held.acquire()
    with pytest.raises(StoreInUse):
        await Store.open(path, shared=True)
    held.release()
    beside = await Store.open(path, shared=True)
    try:
        assert await pragma(beside, "user_version") == len(MIGRATIONS)
        await (await Store.open(path)).aclose()
    finally:
        await beside.aclose()


async def test_references_hold_but_where_the_work_itself_sees_to_them(store: Store) -> None:
    lost = "INSERT INTO nodes (conversation, role, text, created) VALUES (99, 'user', '', 1.0)"
    for _ in range(2):
        with pytest.raises(StoreError, match="FOREIGN KEY"):
            await store.execute(lost)
        await store.transaction(lambda db: db.execute(lost), checked=False)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "look at the folder's and the file's permissions"),
        (errno.EROFS, "mounted read-only"),
        (errno.EIO, "look at the system's log"),
        (errno.EBADF, "it can't be used"),
        (None, "it can't be used"),
    ],
)
async def test_what_the_system_refuses_is_told_in_words(store: Store, number: int | None, words: str) -> None:
    def fails(db: sqlite3.Connection) -> None:
        raise OSError("odd") if number is None else OSError(number, "so it says", "beside.db")

    with pytest.raises(StoreError, match=words) as told:
        await store.transaction(fails)
    assert isinstance(told.value, StoreFull) is (words == "the disk is full")
    assert ("beside.db" if number else "test.db") in str(told.value)


@pytest.mark.parametrize(
    ("name", "full", "words"),
    [
        ("SQLITE_IOERR_SHMSIZE", True, "the disk is full; once there is room, everything goes on by itself (odd)"),
        ("SQLITE_IOERR_READ", False, "the disk reports an error; look at the system's log (odd)"),
        ("SQLITE_MISUSE", False, "odd"),
    ],
)
async def test_what_sqlite_refuses_is_told_in_words(store: Store, name: str, full: bool, words: str) -> None:
    def fails(db: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("odd")
        error.sqlite_errorname = name
        raise error

    with pytest.raises(StoreError) as told:
        await store.transaction(fails)
    assert str(told.value).endswith(f"test.db: {words}")
    assert isinstance(told.value, StoreFull) is full


@pytest.mark.parametrize(("seconds", "all_of_them"), [(-1.0, False), (60.0, True)])
async def test_rows_are_looked_over_as_it_opens_as_long_as_that_is_soon_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, all_of_them: bool
) -> None:
    first = await Store.open(tmp_path / "test.db")
    await first.start("bot", "room")
    await first.execute("UPDATE conversations SET overrides = '{'")
    await first.aclose()
    monkeypatch.setattr(database, "AUDIT_SECONDS", seconds)
    store = await Store.open(tmp_path / "test.db")
    try:
        assert (store.damaged_rows == 1, not await store.look_on()) == (all_of_them, all_of_them)
    finally:
        await store.aclose()


def test_a_row_has_another_short_name_than_one_of_its_id_in_an_earlier_database() -> None:
    assert (short_key(1.5, 255), short_key(1.501, 255)) == ("5dc-ff", "5dd-ff")
