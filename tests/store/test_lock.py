"""One store, one program at a time; first starts and upgrades at once, or killed half-way; who may read the files."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from chatbridge.errors import StoreError, StoreFull, StoreInUse
from chatbridge.store import Inbox, Store
from chatbridge.store.private import private_folder
from chatbridge.store.queue import Queue
from chatbridge.store.schema import MIGRATIONS
from chatbridge.types import Author, Channel, Message

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither kill -9 nor modes of files")

HOLDER = """
import asyncio, sys
from pathlib import Path
from chatbridge.store import Store

async def main():
    await Store.open(Path(sys.argv[1]), config="bots.yaml")
    print("open", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def message(id: str = "1", text: str = "hi") -> Message:
    return Message(id, Channel("room"), Author("a", "Ann"), text)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    given = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- one at a time -------------------------------------------------------------------------------------------------


async def test_a_second_one_in_this_program_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    first = await Store.open(tmp_path / "store")
    with pytest.raises(StoreInUse, match=f"process {os.getpid()}"):
        await Store.open(tmp_path / "store")
    await first.aclose()
    await (await Store.open(tmp_path / "store")).aclose()


@posix
async def test_another_program_is_told_who_has_it_and_has_it_once_that_is_killed(tmp_path: Path) -> None:
    with start(HOLDER, tmp_path / "store") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreInUse, match=rf"process {holder.pid}, on .*, since .* with .*bots.yaml") as refused:
            await Store.open(tmp_path / "store")
        assert "name another file under `store:`" in str(refused.value)
        holder.kill()
        holder.wait()
    store = await Store.open(tmp_path / "store")
    await store.aclose()


async def test_beside_its_holder_it_can_be_read_and_what_was_given_up_put_back(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store")
    item = await Inbox(store).add("bot", message())
    assert item is not None
    await Inbox(store).dead_letter(item.id, "too many tries")
    beside = await Store.open(tmp_path / "store", shared=True)
    assert [entry.state for entry in await Queue(beside).entries()] == ["dead"]
    await Queue(beside).retry("in-1")
    await beside.aclose()
    assert [one.id for one in await Inbox(store).open("bot")] == [item.id]
    with pytest.raises(StoreInUse):
        await Store.open(tmp_path / "store")  # who read beside it has not taken its lock away
    await store.aclose()


@pytest.mark.parametrize(
    "said",
    [
        '{"since": 1e300}',
        '{"since": NaN, "pid": "x"}',
        '{"host": 7, "config": {}}',
        "[" * 100_000,
        '{"host": "\\u001b["}',
        '{"host": "", "config": ""}',
        '["pid", 5]',
    ],
)
async def test_whatever_a_locks_file_says_its_holder_is_told_of_in_one_line(tmp_path: Path, said: str) -> None:
    store = await Store.open(tmp_path / "db")
    try:
        (tmp_path / "db.lock").write_text(said, "utf-8")
        with pytest.raises(StoreInUse, match="in use by another program: a process that is just starting") as refused:
            await Store.open(tmp_path / "db")
        assert str(refused.value).isprintable()
        assert "starting. Two would" in str(refused.value)
    finally:
        await store.aclose()


async def test_who_takes_the_lock_writes_over_all_that_another_has_said(tmp_path: Path) -> None:
    (tmp_path / "store.lock").write_text("x" * 5000)
    store = await Store.open(tmp_path / "store")
    assert json.loads((tmp_path / "store.lock").read_text())["pid"] == os.getpid()
    await store.aclose()


async def test_a_lock_whose_file_says_nothing_holds_as_well(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store")
    (tmp_path / "store.lock").write_text("no JSON")
    with pytest.raises(StoreInUse, match="just starting"):
        await Store.open(tmp_path / "store")
    await store.aclose()


# --- first starts and upgrades -------------------------------------------------------------------------------------


def old_store(path: Path, version: int = 1) -> None:
    with closing(sqlite3.connect(path)) as old:
        for script in MIGRATIONS[:version]:
            old.executescript(script)
        old.execute(f"PRAGMA user_version = {version}")
        old.execute("INSERT INTO conversations (bot, channel, created) VALUES ('bot', 'room', 1.0)")
        old.commit()


OPENER = """
import asyncio, sys
from pathlib import Path
from chatbridge.errors import StoreInUse
from chatbridge.store import Store

async def main():
    store = await Store.open(Path(sys.argv[1]), shared=sys.argv[2] == "shared")
    conversation = await store.conversation("bot", "room")
    await store.aclose()
    print("fine", conversation.id)

try:
    asyncio.run(main())
except StoreInUse as error:
    print("in use")
"""


@pytest.mark.parametrize("version", [0, 1])
def test_programs_that_open_a_file_for_the_first_time_at_once(tmp_path: Path, version: int) -> None:
    if version:
        old_store(tmp_path / "store", version)
    kinds = ("alone", "alone", "shared", "shared")
    programs = [start(OPENER, tmp_path / "store", kind) for kind in kinds]
    told = [program.communicate(timeout=100) for program in programs]
    assert {out for out, _ in told} <= {"fine 1\n", "in use\n"}, told
    assert "fine 1\n" in {out for out, _ in told}


MIGRATOR = """
import os, signal, sqlite3, sys
from pathlib import Path
from chatbridge.store import damaged
from chatbridge.store.schema import migrate

db = damaged.connect(sys.argv[1], 5.0)
db.execute("PRAGMA journal_mode = WAL")
left = int(sys.argv[2])

def count(statement):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

db.set_trace_callback(count)
migrate(db, "store")
"""


def migrated(path: Path, at: int) -> bool:
    """Whether an upgrade came to its end that was to be killed at a statement."""
    with start(MIGRATOR, path, at) as program:
        program.communicate()
    return program.returncode == 0


def shape(path: Path) -> tuple[object, ...]:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = db.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
        return db.execute("PRAGMA user_version").fetchone()[0], *names


@posix
def test_a_kill_within_an_upgrade_leaves_the_file_as_before_or_as_after(tmp_path: Path, scale: int) -> None:
    old_store(tmp_path / "before")
    before = shape(tmp_path / "before")
    old_store(tmp_path / "after")
    assert migrated(tmp_path / "after", 0)
    after = shape(tmp_path / "after")
    assert after != before
    step, at, kills = 5 if scale == 1 else 1, 1, 0
    while True:
        path = tmp_path / f"store{at}"
        old_store(path)
        if migrated(path, at):
            break
        kills += 1
        assert shape(path) in (before, after), f"killed at statement {at}"
        asyncio.run(_opens(path))
        at += step
    assert kills >= 4


async def _opens(path: Path) -> None:
    store = await Store.open(path)
    assert (await store.conversation("bot", "room")).id == 1
    await store.aclose()


@pytest.mark.parametrize("wal", [False, True])
async def test_a_file_of_a_newer_version_is_refused_and_not_written(tmp_path: Path, wal: bool) -> None:
    path = tmp_path / "store"
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    content = path.read_bytes()
    for shared in (False, True):
        with pytest.raises(StoreError, match="written by a newer chatbridge"):
            await Store.open(path, shared=shared)
    assert path.read_bytes() == content
    assert list(modes_in(tmp_path)) == ["store"]


# --- the disk ------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_called_that_and_once_there_is_room_all_goes_on(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store")
    inbox = Inbox(store)
    try:
        await inbox.add("bot", message("1"))
        full = await store.transaction(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await _limit(store, full)
        with pytest.raises(StoreFull, match="the disk is full; once there is room, everything goes on by itself"):
            await inbox.add("bot", message("2", "long " * 10_000), ("updates", 2))
        assert [item.service_id for item in await inbox.open("bot")] == ["1"], "and what was there is there"
        await _limit(store, 1 << 30)
        assert await inbox.add("bot", message("2"), ("updates", 2)) is not None
    finally:
        await store.aclose()


async def _limit(store: Store, pages: int) -> None:
    connection = store._connection
    assert connection is not None
    await store._thread.run(lambda: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may write everywhere")
async def test_a_folder_that_can_not_be_written_to_is_told_in_words(read_only: Path) -> None:
    with pytest.raises(StoreError, match="look at the folder's and the file's permissions"):
        await Store.open(read_only / "store")


async def test_a_folder_in_the_place_of_the_file_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(StoreError, match=r"can't be opened|can't be used"):
        await Store.open(tmp_path / "store")


# --- who may read it -----------------------------------------------------------------------------------------------


def modes_in(folder: Path) -> dict[str, int]:
    return {found.name: stat.S_IMODE(found.stat().st_mode) for found in folder.iterdir()}


@posix
@pytest.mark.parametrize("before", [None, 0o666])
async def test_its_files_are_for_their_owner_alone(
    tmp_path: Path, before: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    mask = os.umask(0)
    try:
        if before is not None:
            old_store(tmp_path / "store")
            (tmp_path / "store").chmod(before)
            for beside in ("store-wal", "store-shm"):  # as a program leaves them that was killed
                (tmp_path / beside).touch(before)
        store = await Store.open(tmp_path / "store")
        await Inbox(store).add("bot", message())
        modes = modes_in(tmp_path)
        await store.aclose()
    finally:
        os.umask(mask)
    assert modes == dict.fromkeys(("store", "store-wal", "store-shm", "store.lock"), 0o600)
    assert ("could be read by others" in caplog.text) == (before is not None)


@posix
def test_a_folder_of_ones_own_is_made_with_those_above_it_and_one_that_is_there_stays(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        (tmp_path / "there").mkdir(0o755)
        for _ in range(2):
            private_folder(tmp_path / "there" / "a" / "b")
    finally:
        os.umask(mask)
    folders = [tmp_path / "there", *(tmp_path / "there").rglob("*")]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o755, 0o700, 0o700]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        private_folder(tmp_path / "file")


async def test_an_upgrade_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    old_store(tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store")) as db:
        db.execute("CREATE TABLE damaged (x)")
    before = shape(tmp_path / "store")
    with pytest.raises(StoreError, match="damaged already exists"):
        await Store.open(tmp_path / "store")
    assert shape(tmp_path / "store") == before
