"""What each operation of the store takes, in stores of more and more rows: none is to grow with them.

    python benchmarks/store.py [ROWS ...] [--folder FOLDER] [--keep]

A store of ROWS has as many rows in each box, and a conversation of 200 messages for each hundred of them. Each number
is the median of some calls in milliseconds of processor time, which other programs disturb least (`--wall`: of the
clock), the way to the store's thread and back included, so that a call of nothing (`nothing`) stands among them.
10,000,000 rows take 6 GiB and half an hour to fill.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from inspect import signature
from pathlib import Path

from chatbridge import Author, Channel, Message
from chatbridge.store import Cursors, Inbox, MessageIndex, NewOutboxMessage, Outbox, Pairings, Store, UsageLog
from chatbridge.store.queue import Queue

PER_CONVERSATION = 200
TEXT = "This is a sentence of an ordinary length, more or less. "
TOKENS = array.array("I", range(300, 320)).tobytes()
RUN = f"{time.time():.0f}"
"""In the ids of new messages: those of an earlier run may be in a store that was kept."""
CONTEXT = 4096
"""Tokens of the context that a conversation is read back for."""


async def made(path: Path, rows: int) -> None:
    """A store of that size at `path`, in the schema of this version."""
    await (await Store.open(path)).aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -1000000")
        indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
        for name, _ in indexes:  # made afterwards they take a tenth of the time
            db.execute(f"DROP INDEX {name}")
        _fill(db, rows)
        for _, sql in indexes:
            db.execute(sql)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _fill(db: sqlite3.Connection, rows: int) -> None:
    rooms, now = rows * 2 // PER_CONVERSATION, time.time() - 3600
    db.execute("BEGIN")
    db.execute("PRAGMA defer_foreign_keys = ON")
    talks = ((i + 1, "bot", f"room {i}", now) for i in range(rooms))
    db.executemany("INSERT INTO conversations (id, bot, channel, created) VALUES (?, ?, ?, ?)", talks)
    for k in range(PER_CONVERSATION):
        asked, last = k % 2 == 0, now + k
        for i in range(rooms):
            node = k * rooms + i + 1
            parent = node - rooms if k else None
            talk, room = i + 1, f"room {i}"
            if asked:
                said = ("user", TEXT, "Ann", None, None, None, f"s{k}", last, "ann")
                came = (node - k // 2 * rooms, "bot", room, f"s{k}", "", "done", 1, last)
                db.execute(
                    "INSERT INTO inbox (id, bot, channel, service_id, message, state, attempts, created) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    came,
                )
            else:
                said = ("assistant", TEXT, "", TOKENS, "", "v", None, last, "")
                db.execute(
                    "INSERT INTO outbox (bot, channel, received, kind, state, attempts, message_id, created) "
                    "VALUES ('bot', ?, ?, 'send', 'delivered', 1, ?, ?)",
                    (room, node - rooms - k // 2 * rooms, f"a{k}", last),
                )
            db.execute(
                "INSERT INTO nodes (id, conversation, parent, role, text, name, tokens, tail, vocabulary, service_id, "
                "created, author) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (node, talk, parent, *said),
            )
    for i in range(rooms):  # in the order of the table, which takes a tenth of the time
        ids = ((f"{'a' if k % 2 else 's'}{k}", k * rooms + i + 1) for k in range(PER_CONVERSATION))
        db.executemany("INSERT INTO messages VALUES ('bot', ?, ?, ?)", ((f"room {i}", id, node) for id, node in ids))
    db.execute("UPDATE conversations SET head = id + ?", ((PER_CONVERSATION - 1) * rooms,))
    days = max(2, rooms // 10)
    usage = (("bot", f"person {i % 100}", f"day {i // 100:06}", "Ann", 100, 1) for i in range(days * 100))
    db.executemany("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?)", usage)
    db.execute("COMMIT")


class Timing:
    """Calls operations, and keeps the milliseconds of each. `turns`: held but between calls, when other stores' come.

    So all sizes are measured in the same minutes, whatever else the machine does.
    """

    def __init__(self, calls: int, clock: Callable[[], float], turns: asyncio.Lock) -> None:
        self.calls = calls
        self._clock = clock
        self._turns = turns
        self.medians: dict[str, float] = {}

    async def __call__(self, name: str, call: Callable[[int], Awaitable[object]], calls: int | None = None) -> None:
        times = []
        for number in range(calls or self.calls):
            self._turns.release()
            await self._turns.acquire()
            begin = self._clock()
            await call(number)
            times.append(1000 * (self._clock() - begin))
        self.medians[name] = statistics.median(times)


async def measured(path: Path, rows: int, timing: Timing) -> dict[str, float]:
    """The median of each operation in the store at `path`, in milliseconds."""
    rooms = rows * 2 // PER_CONVERSATION

    async def opened(shared: bool) -> None:
        await (await Store.open(path, shared=shared)).aclose()

    await opened(False)  # what a new version does once is no matter of this one
    await timing("open, the only one", lambda _: opened(False), 3)
    await timing("open beside another, as doctor", lambda _: opened(True), 3)
    store = await Store.open(path)
    try:
        await boxes(store, timing, rooms)
        await conversations(store, timing, rooms)
        await people(store, timing)
    finally:
        await store.aclose()
    return timing.medians


async def boxes(store: Store, timing: Timing, rooms: int) -> None:
    inbox, outbox, queue = Inbox(store), Outbox(store), Queue(store)

    def message(number: int, id: str | None = None) -> Message:
        return Message(id or f"{RUN} {number}", Channel(f"room {number * 7919 % rooms}"), Author("ann", "Ann"), TEXT)

    items, rows = [], []

    async def add(number: int) -> None:
        items.append(await inbox.add("bot", message(number), ("updates", number)))

    async def put(number: int) -> None:
        item, new = items[number], NewOutboxMessage("send", content='{"text": "an answer"}', node=1)
        rows.append((await outbox.put("bot", item.channel, [new], inbox_id=item.id))[0])

    await timing("nothing", lambda _: store.transaction(lambda db: None))
    await timing("inbox.add", add)
    await timing("inbox.begin", lambda number: inbox.begin(items[number].id))
    await timing("inbox.open, all of them", lambda _: inbox.open("bot"), 5)
    await timing("queue.entries, all of them", lambda _: queue.entries(), 5)
    await timing("outbox.put", put)
    await timing("outbox.attempting", lambda number: outbox.attempting(rows[number].id, "send", ""))
    await timing("outbox.open, all of them", lambda _: outbox.open("bot"), 5)
    await timing("outbox.delivered", lambda number: outbox.delivered(rows[number].id, f"out {number}"))
    await timing("inbox.open, nothing", lambda _: inbox.open("bot"), 5)
    await timing("outbox.open, nothing", lambda _: outbox.open("bot"), 5)
    await timing("inbox.revise", lambda number: inbox.revise("bot", message(number, "s4")))
    await timing("inbox.withdraw", lambda number: inbox.withdraw("bot", f"room {number * 7919 % rooms}", "s4"))
    await timing("cursors.all", lambda _: Cursors(store).all("bot"))


async def conversations(store: Store, timing: Timing, rooms: int) -> None:
    index = MessageIndex(store)
    talks = [await store.conversation("bot", f"room {number * 7919 % rooms}") for number in range(timing.calls)]
    tips = [await store.node(talk.head or 0) for talk in talks]
    back = {"max_bytes": 16 * CONTEXT} if "max_bytes" in signature(store.path).parameters else {}

    async def append(number: int) -> None:
        talk = talks[number]
        await store.append(talk.id, "user", TEXT, parent=talk.head, service_id=f"{RUN} {number}", channel=talk.channel)

    await timing("conversation", lambda number: store.conversation("bot", talks[number].channel))
    await timing("get", lambda number: store.get(talks[number].id))
    await timing("append", append)
    await timing("path, 200 messages", lambda number: store.path(talks[number].id, **back))
    await timing("children", lambda number: store.children(talks[number].id, tips[number].parent))
    await timing("leaves", lambda number: store.leaves(talks[number].id))
    await timing("conversations of a room", lambda number: store.conversations("bot", talks[number].channel), 5)
    await timing("conversations of a bot, 100", lambda _: store.conversations("bot"), 5)
    await timing("messages.find", lambda number: index.find("bot", talks[number].channel, "s4"))
    await timing("messages.latest", lambda number: index.latest("bot", talks[number].channel))
    await timing("messages.kept_answer", lambda number: index.kept_answer("bot", talks[number].channel, "s4"))
    await timing("messages.remove", lambda number: index.remove("bot", talks[number].channel, "s8"))
    await timing("start", lambda number: store.start("bot", talks[number].channel))
    await timing("make_current", lambda number: store.make_current(talks[number].id))


async def people(store: Store, timing: Timing) -> None:
    usage, pairings = UsageLog(store), Pairings(store)
    await timing("usage.add", lambda _: usage.add("bot", Author("person 1", "Ann"), "day 999999", 10))
    await timing("usage.tokens", lambda _: usage.tokens("bot", "person 1", "day 999999"))
    await timing("usage.of_day", lambda _: usage.of_day("bot", "day 000000"), 5)
    await timing("pairings.paired", lambda _: pairings.paired("bot", "person 1"))


def _delete(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


async def main(sizes: list[int], folder: Path, keep: bool, calls: int, clock: Callable[[], float]) -> None:
    turns = asyncio.Lock()

    async def one(rows: int, path: Path) -> dict[str, float]:
        async with turns:
            return await measured(path, rows, Timing(calls, clock, turns))

    paths = {rows: folder / f"store-{rows}.sqlite3" for rows in sizes}
    for rows, path in paths.items():
        if not path.exists():
            begin = time.perf_counter()
            await made(path, rows)
            print(f"{rows} rows: filled in {time.perf_counter() - begin:.0f} s, {path.stat().st_size >> 20} MiB")
    tables = await asyncio.gather(*(one(rows, path) for rows, path in paths.items()))
    found = dict(zip(sizes, tables, strict=True))
    for path in paths.values():
        if not keep:
            _delete(path)
    print("\n| ms, median | " + " | ".join(f"{rows:,} rows" for rows in sizes) + " | last / first |")
    print("|---" * (len(sizes) + 2) + "|")
    for name in found[sizes[0]]:
        times = [found[rows][name] for rows in sizes]
        print(f"| {name} | " + " | ".join(f"{one:.3f}" for one in times) + f" | {times[-1] / times[0]:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", type=int, default=[10_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=None, help="Where the stores are made.")
    parser.add_argument("--keep", action="store_true", help="Leave them there, and use those that are there.")
    parser.add_argument("--calls", type=int, default=200, help="Calls of each operation.")
    parser.add_argument("--wall", action="store_true", help="Times of the clock, not of the processor.")
    given = parser.parse_args()
    clock = time.perf_counter if given.wall else time.process_time
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(main(given.rows, given.folder or Path(temporary), given.keep, given.calls, clock))
