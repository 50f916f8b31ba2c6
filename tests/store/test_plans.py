"""No statement of the store looks through a table, and none takes longer in a larger store.

Every place where the store runs a statement is found in its source, and each of them has to be reached here.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import chatbridge.store
from chatbridge.config import Keep
from chatbridge.errors import StoreError
from chatbridge.store import Cursors, Inbox, MessageIndex, NewOutboxMessage, Outbox, Pairings, Store, UsageLog, damaged
from chatbridge.store.database import Database
from chatbridge.store.forgetting import forget
from chatbridge.store.queue import Queue
from chatbridge.store.schema import MIGRATIONS
from chatbridge.store.upkeep import Upkeep
from chatbridge.types import Author, Channel, Message, Reply

HOME = Path(chatbridge.store.__file__).parent
ANN, BEN = Author("ann", "Ann"), Author("ben", "Ben")

SCANS = {
    r"FROM damaged\b": "rows that can't be read are few",
    r"FROM marks WHERE bot = \?$": "all of them are asked for; a bot has as many as channels",
    r"SET paired_by = ''": "whom an admin has let in is asked once, when that one is forgotten",
    r"FROM people WHERE bot = \? ORDER": "everybody who asked is asked for",
    r"CAST\(\w+ AS BLOB\) IS": "a key that can't be read is in no index; it happens to damaged rows alone",
}
"""What may look through a table, and why."""

BEFORE = ("schema.py",)
"""What runs once, for a file of an earlier version."""


class Recording(damaged.Connection):
    """Keeps how SQLite would carry out each statement, and where in the store's source it stands."""

    plans: dict[str, list[str]]
    places: set[tuple[str, int]]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._look(sql, parameters)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        rows = list(parameters)
        self._look(sql, rows[0] if rows else None)
        return super().executemany(sql, rows)

    def _look(self, sql: str, parameters: Any) -> None:
        place = place_of(sys._getframe(2))
        type(self).places.add(place)
        asks = re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", sql) is not None
        if asks and parameters is not None and place[0] not in BEFORE:
            rows = super().execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
            type(self).plans.setdefault(sql, []).extend(row[3] for row in rows.fetchall())


def place_of(frame: Any) -> tuple[str, int]:
    return Path(frame.f_code.co_filename).name, frame.f_lineno


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    """What the store runs while this is in use."""
    Recording.plans, Recording.places = {}, set()
    plain = Database.execute

    def execute(self: Database, statement: str, *values: object) -> Awaitable[int]:
        Recording.places.add(place_of(sys._getframe(1)))
        return plain(self, statement, *values)

    monkeypatch.setattr(damaged, "Connection", Recording)
    monkeypatch.setattr(Database, "execute", execute)
    return Recording


def statements() -> set[tuple[str, int, int]]:
    """Every call in the store's source that runs a statement: file, first and last line."""
    found = set()
    for file in HOME.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            runs = isinstance(call.func, ast.Attribute) and call.func.attr in (
                "execute",
                "executemany",
                "executescript",
            )
            if runs and not re.match(r"f?['\"](PRAGMA|BEGIN|COMMIT|ROLLBACK|VACUUM)\b", ast.unparse(call.args[0])):
                found.add((file.name, call.lineno, call.end_lineno or call.lineno))
    return found


def scans(plan: list[str], partial: set[str]) -> list[str]:
    """The lines of a plan that look through a table, or through all that it has of a bot.

    An index of what is open alone may be read from end to end.
    """
    found = []
    for line in plan:
        match = re.match(r"SCAN (?:TABLE )?(\S+)(?:.*USING (?:COVERING )?INDEX (\S+))?", line)
        looks = (
            match and match[1] not in ("up", "CONSTANT") and not match[1].startswith("(") and match[2] not in partial
        )
        if looks or (line.endswith(" (bot=?)") and not any(f" {name} " in line for name in partial)):
            found.append(line)
    return found


def message(id: str, author: Author = ANN, room: str = "room") -> Message:
    return Message(id, Channel(room, kind="group"), author, f"{id} of {author.name}")


async def an_old_file(path: Path) -> None:
    """One of the first version, with a conversation."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for script in MIGRATIONS[:1]:
            db.executescript(script)
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO conversations (bot, channel, created) VALUES ('bot', 'room', 1.0)")


async def talk(store: Store) -> None:
    """Everything that conversations are asked for."""
    room = await store.conversation("bot", "room")
    asked = await store.append(room.id, "user", "hi", parent=None, service_id="1", channel="room", author="ann")
    await store.append(room.id, "user", "hi", parent=None, service_id="1", channel="room")
    answer = await store.append(room.id, "assistant", "hello", parent=asked.id, reply=Reply("hello", (1, 2), "", "v"))
    more = await store.append(
        room.id, "user", "> hi\nyes", parent=answer.id, service_id="2", channel="room", author="ben"
    )
    await store.update_reply(answer.id, "hello there", Reply("hello there", (1, 2), "", "v"), True)
    await store.set_trim(room.id, asked.id)
    await store.set_head(room.id, more.id)
    await store.set_overrides(room.id, {"model": "m"})
    await store.path(room.id, since=asked.id, max_bytes=100, limit=3)
    await store.children(room.id, None)
    await store.children(room.id, asked.id)
    await store.leaves(room.id)
    assert await store.count_above(more.id) == 2
    for bot, channel in ((None, None), ("bot", None), ("bot", "room")):
        assert await store.conversations(bot, channel)
    await store.copy(answer.id, "room/ben", "ben")
    copied = await store.restore("bot", "elsewhere", await store.export(room.id))
    await store.make_current(copied.id)
    await store.move("bot", lambda key: key.replace("elsewhere", "there"), begins="elsewhere")
    index = MessageIndex(store)
    assert await index.find("bot", "room", "1")
    assert await index.latest("bot", "room")
    assert await index.kept_answer("bot", "room", "1")
    assert await index.remove("bot", "room", "2")
    with pytest.raises(StoreError):
        await store.node(99)


async def deliver(store: Store) -> None:
    """Everything that both boxes, their queue and their cursors are asked for."""
    inbox, outbox, queue, cursors = Inbox(store), Outbox(store), Queue(store), Cursors(store)
    items = [await inbox.add("bot", message(id, ANN if id < "5" else BEN), ("room", 1)) for id in "3456"]
    first, second, third, fourth = (item.id for item in items if item)
    await inbox.revise("bot", message("3"))
    await inbox.begin(first)
    await inbox.show(first, ["x"])
    await inbox.release(first)
    await inbox.asked(first)
    await inbox.withdraw("bot", "room", "3")
    await inbox.finish(second)
    await inbox.dead_letter(third, "why")
    await queue.retry(f"in-{third}")
    await queue.drop(f"in-{third}")
    node = (await store.path((await store.conversation("bot", "room")).id))[-1].id
    new = [NewOutboxMessage("send", content="{}", node=node) for _ in range(4)]
    rows = await outbox.put("bot", "room", new, inbox_id=fourth)
    await outbox.attempting(rows[0].id, "send", "")
    await outbox.pending(rows[0].id, "down", False)
    await outbox.delivered(rows[0].id, "m")
    await outbox.failed(rows[1].id, "down", False)
    await queue.retry(f"out-{rows[1].id}")
    await queue.drop(f"out-{rows[1].id}")
    await outbox.put_aside(rows[2].id, "unreadable")
    await inbox.open("bot")
    await outbox.open("bot")
    await queue.entries()
    await queue.retry("damaged-1")
    await outbox.put_aside(rows[2].id, "unreadable")
    await queue.drop("damaged-2")
    assert await cursors.get("bot", "room") == 1
    await cursors.all("bot")


async def people(store: Store) -> None:
    pairings, usage = Pairings(store), UsageLog(store)
    for author in (ANN, BEN):
        pairing = await pairings.request("bot", author, valid_days=1, max_open=9)
        assert pairing is not None
    await pairings.pair("bot", pairing.code, "ann")
    await pairings.paired("bot", "ben")
    await pairings.all("bot")
    await pairings.unpair("bot", "ann")
    for day in ("2026-01-01", "2026-01-02"):
        await usage.add("bot", ANN, day, 5)
    await usage.bring_back("bot", "2026-01-01")
    await usage.tokens("bot", "ann", "2026-01-01")
    await usage.of_day("bot", "2026-01-01")


def spoil(path: Path) -> None:
    """Rows that can't be read, of a kind each: found when the store opens, and when they are read."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("UPDATE conversations SET overrides = '{' WHERE channel = 'room'")
        db.execute("UPDATE nodes SET conversation = 'x', role = 'y' WHERE service_id = '1'")
        db.execute("INSERT INTO inbox (bot, channel, service_id, message, created) VALUES ('bot', 'r', '8', '', 'x')")
        db.execute("INSERT INTO usage VALUES ('bot', CAST(x'ff616e6e' AS TEXT), 'd', 'x', 'many', 1)")


async def everything(path: Path) -> None:
    """All that a store is ever asked for."""
    await an_old_file(path)
    store = await Store.open(path)
    await talk(store)
    await deliver(store)
    await people(store)
    await store.aclose()
    spoil(path)
    store = await Store.open(path)
    room = await store.conversation("bot", "room")
    await store.path(room.id)
    await asyncio.gather(store.get(room.id), store.get(1 << 40), return_exceptions=True)  # committed together
    await store.look_through()
    while await store.look_on():
        pass
    later = Upkeep(store, lambda: Keep(answered="1d", usage="2d", conversations="1h"), clock=lambda: 2e9, pause=0)
    assert await Inbox(store).add("bot", message("9")) is not None
    await UsageLog(store).add("bot", ANN, "2026-01-01", 5)
    await Pairings(store).request("bot", ANN)
    assert (await later.round()).conversations
    again = await store.conversation("bot", "room")
    mine = await store.append(again.id, "user", "words", parent=None, service_id="7", channel="room", author="ann")
    theirs = await store.append(again.id, "user", "> words\nno", parent=mine.id, author="ben")
    item = await Inbox(store).add("bot", message("7"))
    assert item is not None
    assert await Inbox(store).add("bot", replace(message("11", BEN), quoted="words")) is not None
    new = [NewOutboxMessage("send", content="{}", node=theirs.id)]
    await Outbox(store).put("bot", "room", new, inbox_id=item.id)
    await Outbox(store).put("bot", "room", [NewOutboxMessage("send", content="{}")])
    await store.copy(theirs.id, "room/ben", "ben")
    await people(store)
    for id in ("ann", "room"):
        await forget(store, id)
    await store.shrink_journal()
    await store.give_back()
    await store.aclose()


async def test_no_statement_of_the_store_looks_through_a_table(recorded: type[Recording], tmp_path: Path) -> None:
    await everything(tmp_path / "store")
    missed = [
        f"{file}:{first}"
        for file, first, last in sorted(statements())
        if not any(file == name and first <= line <= last for name, line in recorded.places)
    ]
    assert missed == [], "statements that this test does not reach: let `everything` reach them"
    with closing(sqlite3.connect(tmp_path / "store")) as db:
        indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'")
        partial = {name for name, _ in indexes}
    found = {sql: lines for sql, plan in recorded.plans.items() if (lines := scans(plan, partial))}
    bad = {sql: lines for sql, lines in found.items() if not any(re.search(reason, sql) for reason in SCANS)}
    assert not bad
    assert len(recorded.plans) > 100


def test_a_scan_is_told_from_a_search() -> None:
    assert scans(["SCAN nodes", "SCAN inbox USING INDEX inbox_done", "SCAN TABLE usage"], {"inbox_open"})
    assert not scans(
        ["SEARCH nodes USING INDEX x (a=?)", "SCAN up", "SCAN inbox USING INDEX inbox_open"], {"inbox_open"}
    )


# --- in numbers ------------------------------------------------------------------------------------------------------


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("store_benchmark", Path(__file__).parents[2] / "benchmarks/store.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Counting:
    """In the place of the benchmark's clock: counts the steps of SQLite's machine, which are the same each time."""

    calls = 3

    def __init__(self, store: Store) -> None:
        self.steps: dict[str, int] = {}
        self._store = store

    async def __call__(self, name: str, call: Callable[[int], Awaitable[object]], calls: int | None = None) -> None:
        for number in range(self.calls):
            count = 0

            def step() -> int:
                nonlocal count
                count += 1
                return 0

            await self._store.transaction(lambda db, step=step: db.set_progress_handler(step, 1))  # type: ignore[misc]
            await call(number)
            await self._store.transaction(lambda db: db.set_progress_handler(None, 1))
            self.steps[name] = max(self.steps.get(name, 0), count)


async def counted(path: Path, rows: int) -> dict[str, int]:
    made = benchmark()
    await made.made(path, rows)
    store = await Store.open(path)
    try:
        counting = Counting(store)
        for part in (made.boxes, made.conversations):
            await part(store, counting, rows * 2 // made.PER_CONVERSATION)
        await made.people(store, counting)
        return counting.steps
    finally:
        await store.aclose()


async def test_nothing_takes_more_work_in_a_store_of_four_times_the_rows(tmp_path: Path) -> None:
    small, large = await counted(tmp_path / "small", 500), await counted(tmp_path / "large", 2000)
    grown = {name: (steps, large[name]) for name, steps in small.items() if large[name] > 1.34 * steps + 50}
    assert grown.keys() <= {"conversations of a bot, 100"}, grown  # there are fewer than it lists at most


async def test_what_comes_back_of_a_long_conversation_costs_what_is_read(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store")
    try:
        counting, heads = Counting(store), {}
        for length in (100, 800):
            room, node = await store.conversation("bot", str(length)), None
            for number in range(length):
                node = (await store.append(room.id, "user", f"{number:03} {'x' * 46}", parent=node)).id
            heads[length] = room.id
        for length, id in heads.items():
            await counting(f"bytes {length}", lambda _, id=id: store.path(id, max_bytes=1000))
            await counting(f"last {length}", lambda _, id=id: store.path(id, limit=2))
        assert counting.steps["bytes 100"] == counting.steps["bytes 800"]
        assert counting.steps["last 100"] == counting.steps["last 800"]
        assert len(await store.path(heads[800], max_bytes=1000)) == 21  # the first one that is too much is read
        assert [node.text[:3] for node in await store.path(heads[800], limit=2)] == ["798", "799"]
    finally:
        await store.aclose()
