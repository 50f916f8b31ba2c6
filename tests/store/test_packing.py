"""Space in the file: it goes back but for some, and an earlier version's file is written anew where there is room."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from chatbridge.store import Store, packing
from chatbridge.store.forgetting import forget
from chatbridge.store.packing import give_back


async def earlier(path: Path) -> Path:
    """A store as an earlier version made it, which gives nothing back."""
    await (await Store.open(path)).aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
    return path


async def gives_back(store: Store) -> bool:
    return await store.transaction(packing.gives_back)


@pytest.mark.parametrize(("lacks", "anew"), [(0, True), (1, False)])
async def test_a_file_is_written_anew_where_there_is_room_for_it_twice_and_a_mebibyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lacks: int, anew: bool
) -> None:
    path = await earlier(tmp_path / "old.db")
    free = 2 * path.stat().st_size + 1024 * 1024 - lacks
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    store = await Store.open(path)
    try:
        assert await gives_back(store) is anew
        assert ("the next start tries again" in caplog.text) is not anew
    finally:
        await store.aclose()


async def test_one_that_could_not_be_written_anew_is_when_somebody_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, room = await earlier(tmp_path / "old.db"), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: room._replace(free=0))
    store = await Store.open(path)
    try:
        assert not await gives_back(store)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: room)
        await forget(store, "111")
        assert await gives_back(store)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: room._replace(free=0))
        await forget(store, "111")  # once is enough
    finally:
        await store.aclose()


async def test_free_pages_go_back_step_by_step_but_for_the_spare_ones(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "test.db")

    def free(db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA freelist_count").fetchone()[0])

    def fill_and_empty(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE large (data)")
        db.execute("INSERT INTO large VALUES (zeroblob(400000))")
        db.execute("DROP TABLE large")

    try:
        await store.transaction(fill_and_empty)
        pages = await store.transaction(free)
        gone = []
        for spare in (pages - 5, pages - 5, pages):
            gone.append(await store.transaction(lambda db, spare=spare: give_back(db, spare, 3)))  # type: ignore[misc]
        assert gone == [3, 2, 0]
        assert await store.transaction(free) == pages - 5
        assert await store.give_back() == 0, "so many may stay"
    finally:
        await store.aclose()
