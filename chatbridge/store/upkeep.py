"""Deletes what nobody needs any more while the program runs, in steps of a few milliseconds: other work comes between.

Knows how long things are kept because it is told; knows no bot and no settings. A conversation that is deleted is taken
out of everybody's sight first, and its messages after that: what a crash leaves of it goes in the next round.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Protocol

from chatbridge.errors import ChatbridgeError
from chatbridge.store.database import Database
from chatbridge.store.tables import INBOX_OPEN, OUTBOX_OPEN

log = logging.getLogger(__name__)

ROUND_SECONDS = 3600.0
"""From one round to the next."""

STEP_SECONDS = 0.004
"""After which a step ends; what comes in meanwhile waits for it."""

PAUSE_SECONDS = 0.02
"""Between two steps, so that a large store is looked through in minutes and nobody notices."""

CHUNK = 25
"""Rows between two looks at the clock."""

DAY = 86_400.0


class KeepTimes(Protocol):
    """How many seconds things are kept; None: for ever."""

    @property
    def answered(self) -> float | None:
        """Rows of messages that were answered, and of answers that were delivered."""
        ...

    @property
    def usage(self) -> float | None:
        """What each person's answers have cost on a day."""
        ...

    @property
    def conversations(self) -> float | None:
        """Conversations, since they were last used."""
        ...


@dataclass(slots=True)
class Deleted:
    """What a round has deleted: rows of both boxes, days of people's usage, conversations, their messages, pages."""

    answered: int = 0
    usage: int = 0
    conversations: int = 0
    messages: int = 0
    pages: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


class Upkeep:
    """The upkeep of one store. `keep`: is asked anew each round. `in_use`: whether a bot is at work in a conversation.

    `clock`: seconds since the epoch. `pause`: seconds between two steps.
    """

    def __init__(
        self,
        store: Database,
        keep: Callable[[], KeepTimes],
        in_use: Callable[[str, str], bool] = lambda bot, key: False,
        *,
        clock: Callable[[], float] = time.time,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._store = store
        self._keep = keep
        self._in_use = in_use
        self._clock = clock
        self._pause = pause

    async def run(self) -> None:
        """One round after another, until this is cancelled."""
        while True:
            try:
                await self._all_steps(self._store.look_on)
                if deleted := await self.round():
                    log.info(
                        "deleted as `keep` says: %d rows of answered messages, %d days of usage, %d conversations with "
                        "%d messages; %d pages given back",
                        *(getattr(deleted, field.name) for field in fields(deleted)),
                    )
            except ChatbridgeError as error:
                log.error("what is old can't be deleted now: %s", error)
            except Exception:  # a mistake here must not take the bots down
                log.exception("what is old can't be deleted now")
            await asyncio.sleep(ROUND_SECONDS)

    async def round(self) -> Deleted:
        """Delete what is older than it is to be. Raises: StoreError."""
        keep, now, deleted = self._keep(), self._clock(), Deleted()
        if keep.answered is not None:
            for box in ("outbox", "inbox"):
                walk = _Answered(box, now - keep.answered, now + DAY)
                deleted.answered += await self._all_steps(partial(self._store.transaction, walk.step))
        if keep.usage is not None:
            # Days are compared as texts, which years of less than four digits break; Windows knows none before 1970.
            day = time.strftime("%Y-%m-%d", time.localtime(max(now - keep.usage, DAY)))
            step = partial(_delete_usage, before=day)
            deleted.usage = await self._all_steps(partial(self._store.transaction, step))
        if keep.conversations is not None:
            await self._leave_conversations(now - keep.conversations)
        while (leaving := await self._store.transaction(_first_leaving)) is not None:
            deleted.messages += await delete_conversation(self._store, leaving, self._pause)
            deleted.conversations += 1
        deleted.pages = await self._all_steps(self._store.give_back)
        if deleted:
            await self._store.shrink_journal()
        return deleted

    async def _all_steps(self, step: Callable[[], Awaitable[int | None]]) -> int:
        """Take steps until one does nothing; how much they have done together. None: looked, and did nothing yet."""
        total = 0
        while (done := await step()) != 0:
            total += done or 0
            await asyncio.sleep(self._pause)
        return total

    async def _leave_conversations(self, before: float) -> None:
        old = _Untouched(before)
        while not old.done:
            for id, bot, key in await self._store.transaction(old.step):
                # Whoever begins with it behind this line finds it gone, and whoever has begun is seen here.
                if not self._in_use(bot, key):
                    await self._store.transaction(lambda db, id=id: _leave(db, id, before))  # type: ignore[misc]
            await asyncio.sleep(self._pause)


def _is_over(begun: float) -> bool:
    """Whether a step that began then is to end."""
    return time.perf_counter() - begun > STEP_SECONDS


# --- answered messages -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Answered:
    """One way through a box, from its oldest row to the first one that is to stay."""

    box: str
    before: float
    future: float
    """Rows from behind that time were made by a clock that was ahead, and tell nothing about those after them."""
    last: int = -1
    done: bool = False

    def step(self, db: sqlite3.Connection) -> int | None:
        rows, begun = 0, time.perf_counter()
        while not self.done:
            found = db.execute(
                "SELECT id, finished AND created < ?, finished AND created >= ? AND created < ? FROM "
                f"(SELECT id, created, state IN ('done', 'delivered', 'dropped') AS finished FROM {self.box} "
                f"WHERE id > ? ORDER BY id LIMIT {CHUNK})",
                (self.before, self.before, self.future, self.last),
            ).fetchall()
            old = [(id,) for id, is_old, _ in found if is_old]
            db.executemany(f"DELETE FROM {self.box} WHERE id = ?", old)
            rows += len(old)
            young = any(is_young for *_, is_young in found)
            self.done = len(found) < CHUNK or (young and not old)
            self.last = found[-1][0] if found else self.last
            if _is_over(begun):
                return rows or None
        return rows


# --- usage -------------------------------------------------------------------------------------------------------


def _delete_usage(db: sqlite3.Connection, before: str) -> int:
    """Some of the days of usage that are older, of each bot; how many."""
    rows = 0
    for bot in names_of(db, "usage"):
        old = db.execute(
            f"SELECT bot, user, day FROM usage INDEXED BY usage_by_day WHERE bot = ? AND day < ? LIMIT {CHUNK}",
            (bot, before),
        ).fetchall()
        db.executemany("DELETE FROM usage WHERE bot = ? AND user = ? AND day = ?", old)
        rows += len(old)
    return rows


def names_of(db: sqlite3.Connection, table: str) -> list[str]:
    """The bots that have rows in a table, one look-up for each."""
    names: list[str] = []
    while True:
        last = names[-1] if names else ""
        (found,) = db.execute(f"SELECT min(bot) FROM {table} WHERE bot > ?", (last,)).fetchone()
        if not isinstance(found, str):
            return names
        names.append(found)


# --- conversations -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Untouched:
    """One way through the conversations; each step gives some that nobody has touched for long enough."""

    before: float
    last: int = -1
    done: bool = False

    def step(self, db: sqlite3.Connection) -> list[tuple[int, str, str]]:
        found = db.execute(
            "SELECT id, bot, channel, max(touched, created) < ? AND leaving = 0 FROM conversations WHERE id > ? "
            f"ORDER BY id LIMIT {CHUNK}",
            (self.before, self.last),
        ).fetchall()
        self.done = len(found) < CHUNK
        self.last = found[-1][0] if found else self.last
        return [tuple(row) for *row, is_old in found if is_old]


def _leave(db: sqlite3.Connection, id: int, before: float) -> None:
    """Begin to delete a conversation, unless somebody has touched it meanwhile or waits for an answer in it."""
    row = db.execute(
        "SELECT bot, channel FROM conversations WHERE id = ? AND max(touched, created, coalesce("
        "(SELECT created FROM nodes WHERE conversation = ? ORDER BY id DESC LIMIT 1), 0)) < ?",
        (id, id, before),
    ).fetchone()
    if row is None:
        return
    waits = db.execute(
        f"SELECT 1 FROM inbox WHERE bot = ? AND {INBOX_OPEN} AND (? = channel OR "
        "substr(?, 1, length(channel) + 1) IN (channel || '/', channel || '#') OR instr(message, ?)) LIMIT 1",
        (row[0], row[1], row[1], row[1]),
    ).fetchone()
    if waits is None:
        take_out_of_sight(db, id)


def take_out_of_sight(db: sqlite3.Connection, id: int) -> None:
    """From now on a conversation is nobody's, and only to be deleted."""
    db.execute(
        "UPDATE conversations SET leaving = 1, current = 0, bot = '', channel = '', head = NULL, trim = NULL, "
        "overrides = '{}' WHERE id = ?",
        (id,),
    )


def _first_leaving(db: sqlite3.Connection) -> int | None:
    row = db.execute("SELECT id FROM conversations WHERE leaving = 1 LIMIT 1").fetchone()
    return row and int(row[0])


async def delete_conversation(store: Database, id: int, pause: float = 0.0) -> int:
    """Delete a conversation that is out of sight, with its messages and all that points at these; how many they are."""
    nodes = 0
    while more := await store.transaction(lambda db: _delete_some(db, id), checked=False):
        nodes += more
        await asyncio.sleep(pause)
    return nodes


def _delete_some(db: sqlite3.Connection, id: int) -> int:
    """Some of the messages, or the conversation where none is left; how many messages."""
    some = f"SELECT id FROM nodes WHERE conversation = ? ORDER BY id DESC LIMIT {CHUNK}"
    nodes, begun = 0, time.perf_counter()
    while chunk := db.execute(some, (id,)).fetchall():
        forget_nodes(db, chunk)
        db.executemany("DELETE FROM nodes WHERE id = ?", chunk)
        nodes += len(chunk)
        if _is_over(begun):
            return nodes
    db.execute("DELETE FROM conversations WHERE id = ?", (id,))
    return nodes


def forget_nodes(db: sqlite3.Connection, ids: list[tuple[int]]) -> None:
    """No message of a chat shows these nodes any more, and none that is still to go out."""
    db.executemany("DELETE FROM messages WHERE node = ?", ids)
    places = ", ".join("?" * len(ids))
    db.execute(f"UPDATE outbox SET node = NULL WHERE {OUTBOX_OPEN} AND node IN ({places})", [id for (id,) in ids])
