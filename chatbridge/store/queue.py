"""What waits in inbox and outbox and what was given up, for whoever looks after the bots. Knows no chat service."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from chatbridge.errors import StoreError
from chatbridge.store.database import Database


@dataclass(frozen=True, slots=True)
class Entry:
    """One message that came in (`in-7`) or has to go out (`out-7`). `text`: how it begins."""

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
        return self.state in ("dead", "failed")


class Queue:
    """Both boxes of a store, of all bots."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def entries(self) -> list[Entry]:
        """What is waiting, under way or given up, oldest first."""

        def work(db: sqlite3.Connection) -> list[Entry]:
            return [
                Entry(*row)
                for row in db.execute(
                    "SELECT 'in-' || id, bot, channel, state, attempts, error, "
                    "coalesce(json_extract(message, '$.text'), json_extract(message, '$.action'), ''), created "
                    "FROM inbox "
                    "WHERE state IN ('waiting', 'running', 'dead') UNION ALL "
                    "SELECT 'out-' || id, bot, channel, state, attempts, error, "
                    "CASE WHEN part = '' THEN '' ELSE coalesce(json_extract(part, '$.text'), '') END, created "
                    "FROM outbox WHERE state IN ('pending', 'attempting', 'failed') ORDER BY created, 1"
                )
            ]

        return await self._store.transaction(work)

    async def retry(self, id: str) -> None:
        """Let one that was given up be tried again. Raises StoreError where there is none such."""
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
                "out": "UPDATE outbox SET state = 'dropped', part = '' WHERE id = ? "
                "AND state IN ('pending', 'attempting', 'failed')",
            },
        )

    async def _change(self, id: str, statements: dict[Any, str]) -> None:
        box, _, number = id.partition("-")
        kind: Literal["in", "out"] | None = "in" if box == "in" else "out" if box == "out" else None
        if kind is None or not number.isdecimal():
            raise StoreError(f"{id!r} is no entry of the queue: they are called in-7 or out-7")

        def work(db: sqlite3.Connection) -> int:
            return db.execute(statements[kind], (int(number),)).rowcount

        if not await self._store.transaction(work):
            raise StoreError(f"there is nothing to be done about {id}; `chatbridge queue` lists what there is")
