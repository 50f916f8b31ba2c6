"""What waits in inbox and outbox, what was given up, and what can't be read, for whoever looks after the bots.

Knows no chat service.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from chatbridge.errors import StoreError
from chatbridge.store import damaged
from chatbridge.store.database import Database
from chatbridge.store.tables import INBOX_OPEN, OUTBOX_OPEN


@dataclass(frozen=True, slots=True)
class Entry:
    """One message that came in (`in-7`) or has to go out (`out-7`), or a row that can't be read (`damaged-7`).

    `text`: how it begins. Of a row that can't be read, `channel` is its table, and `state` "damaged", or "mended" where
    harmless values stand in its place.
    """

    id: str
    bot: str
    channel: str
    state: str
    attempts: int
    error: str
    text: str
    created: float

    @property
    def given_up(self) -> bool:
        """Whether it waits for a person: nothing more happens to it by itself."""
        return self.state in ("dead", "failed", "damaged", "mended")


class Queue:
    """Both boxes of a store, of all bots, and its damaged rows."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def entries(self) -> list[Entry]:
        """What is waiting, under way, given up or damaged, oldest first."""

        def work(db: sqlite3.Connection) -> list[Entry]:
            rows = db.execute(
                "SELECT 'in-' || id, bot, channel, state, attempts, error, message, created FROM inbox "
                f"WHERE {INBOX_OPEN} UNION ALL "
                "SELECT 'out-' || id, bot, channel, state, attempts, error, part, created FROM outbox "
                f"WHERE {OUTBOX_OPEN} UNION ALL "
                "SELECT 'damaged-' || id, '', origin, CASE WHEN mended THEN 'mended' ELSE 'damaged' END, 0, reason, "
                "kept, created FROM damaged ORDER BY created, 1"
            )
            return [_entry(row) for row in rows]

        return await self._store.transaction(work)

    async def retry(self, id: str) -> None:
        """Let one that was given up be tried again. Raises StoreError where there is none such.

        A damaged row goes back where it was, for a chatbridge that can read it.
        """
        await self._change(
            id,
            {
                "in": "UPDATE inbox SET state = 'waiting', attempts = 0 WHERE id = ? AND state = 'dead'",
                "out": "UPDATE outbox SET state = 'pending' WHERE id = ? AND state = 'failed'",
            },
        )

    async def drop(self, id: str) -> None:
        """Let one that was given up, or waits for a program that does not run, go for good. Raises StoreError."""
        await self._change(
            id,
            {
                "in": "UPDATE inbox SET state = 'dropped', message = '' WHERE id = ? "
                "AND state IN ('waiting', 'running', 'dead')",
                "out": "UPDATE outbox SET state = 'dropped', part = '', node = NULL WHERE id = ? "
                "AND state IN ('pending', 'attempting', 'failed')",
                "damaged": "DELETE FROM damaged WHERE id = ?",
            },
        )

    async def _change(self, id: str, statements: dict[str, str]) -> None:
        box, _, number = id.partition("-")
        if box not in ("in", "out", "damaged") or not (number.isascii() and number.isdecimal()) or len(number) > 18:
            raise StoreError(f"{id!r} is no entry of the queue: they are called in-7, out-7 or damaged-7")

        def work(db: sqlite3.Connection) -> int:
            if box not in statements:
                damaged.restore(db, int(number))
                return 1
            return db.execute(statements[box], (int(number),)).rowcount

        if not await self._store.transaction(work):
            raise StoreError(f"there is nothing to be done about {id}; `chatbridge queue` lists what there is")


def _entry(row: tuple[Any, ...]) -> Entry:
    """Also of a row that can't be read and was not put aside yet: the list is there to find those."""
    id, bot, channel, state, attempts, error, content, created = row
    return Entry(
        id,
        _words(bot),
        _words(channel),
        _words(state),
        attempts if isinstance(attempts, int) else 0,
        _words(error),
        _beginning(id, content),
        created if isinstance(created, float) else 0.0,
    )


def _words(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _beginning(id: str, content: object) -> str:
    if not isinstance(content, str | bytes):
        return ""
    try:
        fields = json.loads(content)
        if id.startswith("damaged-"):
            return _words(content)
        return str(fields.get("text") or fields.get("action") or "")
    except (ValueError, AttributeError, RecursionError):
        return _words(content)
