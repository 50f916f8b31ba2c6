"""Messages that have to go out, each kept from before the first try until it was delivered or given up.

Knows no chat service; what a message holds is a text that only delivery can read.
States: pending → attempting → delivered or failed, or pending again after a try that surely had no effect; dropped by
hand. One that was being attempted when the program was killed may have been delivered.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatbridge.store.database import Database, short_key
from chatbridge.store.messages import note

Kind = Literal["send", "edit", "delete"]


@dataclass(frozen=True, slots=True)
class NewLetter:
    """One message to go out: a new one, or an edit or removal of `target`.

    `target` of a new one: the nonce that an earlier try may have had, "" where there was none. `node`: what of the
    conversation it shows, if anything.
    """

    kind: Kind
    target: str = ""
    part: str = ""
    reply_to: str | None = None
    node: int | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """One row. `doubtful`: an earlier try may have been delivered. `message_id`: what the service called it."""

    id: int
    bot: str
    channel: str
    received: int | None
    kind: Kind
    target: str
    part: str
    reply_to: str | None
    language: str
    state: str
    doubtful: bool
    attempts: int
    error: str
    message_id: str
    created: float
    node: int | None

    @property
    def nonce(self) -> str:
        """The same for each try, another for each letter, and short."""
        return self.target if self.kind == "send" and self.target else short_key(self.created, self.id)


class Outbox:
    """The outbox of all bots of a store."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def put(
        self, bot: str, channel: str, letters: Sequence[NewLetter], *, language: str = "en", received: int | None = None
    ) -> list[Letter]:
        """Keep the messages of one answer; in the same moment the inbox is done with what they answer."""

        def work(db: sqlite3.Connection) -> list[Letter]:
            now = time.time()
            ids = [
                db.execute(
                    "INSERT INTO outbox "
                    "(bot, channel, received, kind, target, part, reply_to, language, created, node) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (bot, channel, received, new.kind, new.target, new.part, new.reply_to, language, now, new.node),
                ).lastrowid
                for new in letters
            ]
            if received is not None:
                db.execute("UPDATE inbox SET state = 'done', message = '', live = '[]' WHERE id = ?", (received,))
            return [_letter(db.execute(f"{_LETTER} WHERE id = ?", (id,)).fetchone()) for id in ids]

        return await self._store.transaction(work)

    async def attempting(self, id: int, kind: Kind, target: str) -> None:
        """A try begins; what is tried may have changed since (an edit became a new message). See `NewLetter`."""
        await self._store.execute(
            "UPDATE outbox SET state = 'attempting', attempts = attempts + 1, kind = ?, target = ? WHERE id = ?",
            kind,
            target,
            id,
        )

    async def pending(self, id: int, error: str, doubtful: bool) -> None:
        """A try failed, and there will be another."""
        await self._store.execute(
            "UPDATE outbox SET state = 'pending', error = ?, doubtful = ? WHERE id = ?", error, doubtful, id
        )

    async def delivered(self, id: int, message_id: str) -> None:
        """It is there; from now on the message is known as what it shows."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE outbox SET state = 'delivered', message_id = ?, part = '', error = '' WHERE id = ?",
                (message_id, id),
            )
            row = db.execute("SELECT bot, channel, node FROM outbox WHERE id = ?", (id,)).fetchone()
            if row and row[2] is not None and message_id:
                note(db, row[0], row[1], message_id, row[2])

        await self._store.transaction(work)

    async def failed(self, id: int, error: str, doubtful: bool) -> None:
        """Given up; kept for `chatbridge queue`."""
        await self._store.execute(
            "UPDATE outbox SET state = 'failed', error = ?, doubtful = ? WHERE id = ?", error, doubtful, id
        )

    async def open(self, bot: str) -> list[Letter]:
        """What is still to go out, oldest first."""

        def work(db: sqlite3.Connection) -> list[Letter]:
            rows = db.execute(f"{_LETTER} WHERE bot = ? AND state IN ('pending', 'attempting') ORDER BY id", (bot,))
            return [_letter(row) for row in rows]

        return await self._store.transaction(work)

    async def prune(self, days: float) -> None:
        """Forget what was delivered or dropped longer ago."""
        before = time.time() - days * 86_400
        await self._store.execute("DELETE FROM outbox WHERE state IN ('delivered', 'dropped') AND created < ?", before)


_LETTER = (
    "SELECT id, bot, channel, received, kind, target, part, reply_to, language, state, doubtful, attempts, error, "
    "message_id, created, node FROM outbox"
)


def _letter(row: tuple[Any, ...]) -> Letter:
    values = list(row)
    values[10] = bool(values[10])
    return Letter(*values)
