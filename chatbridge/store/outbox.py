"""Messages that have to go out, each stored before the first try and kept until it was delivered or given up.

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

from chatbridge.store.damaged import put_aside, readable, typed
from chatbridge.store.database import Database, short_key
from chatbridge.store.message_index import note
from chatbridge.store.tables import OUTBOX, OUTBOX_OPEN

Kind = Literal["send", "edit", "delete"]


@dataclass(frozen=True, slots=True)
class NewOutboxMessage:
    """One message to go out: a new one, or an edit or removal of the message `target`.

    `target` of a new one: the nonce that an earlier try may have used, "" where there was none. `content`: what it
    holds, as a text that only delivery can read. `node`: the node of the conversation that it shows, if any.
    """

    kind: Kind
    target: str = ""
    content: str = ""
    reply_to: str | None = None
    node: int | None = None


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """One row of the outbox; see `NewOutboxMessage`.

    `inbox_id`: the row of the inbox that it answers, if any. `doubtful`: an earlier try may have been delivered.
    `message_id`: the id that the service gave it.
    """

    id: int
    bot: str
    channel: str
    inbox_id: int | None
    kind: Kind
    target: str
    content: str
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
        """The same for each try, another for each message, and short."""
        return self.target if self.kind == "send" and self.target else short_key(self.created, self.id)


class Outbox:
    """The outbox of all bots of a store."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def put(
        self,
        bot: str,
        channel: str,
        messages: Sequence[NewOutboxMessage],
        *,
        language: str = "en",
        inbox_id: int | None = None,
    ) -> list[OutboxMessage]:
        """Store the messages of one answer and, in the same transaction, finish what they answer in the inbox."""

        def work(db: sqlite3.Connection) -> list[OutboxMessage]:
            now = time.time()
            ids = [
                db.execute(
                    "INSERT INTO outbox "
                    "(bot, channel, received, kind, target, part, reply_to, language, created, node) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (bot, channel, inbox_id, new.kind, new.target, new.content, new.reply_to, language, now, new.node),
                ).lastrowid
                for new in messages
            ]
            if inbox_id is not None:
                db.execute("UPDATE inbox SET state = 'done', message = '', live = '[]' WHERE id = ?", (inbox_id,))
            return [_message(db.execute(f"{_MESSAGE} WHERE id = ?", (id,)).fetchone()) for id in ids]

        return await self._store.transaction(work)

    async def attempting(self, id: int, kind: Kind, target: str) -> None:
        """A try begins. It may differ from what was put there: an edit may have become a new message."""
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
        """The message is in its chat; the message index knows from now on which node it shows."""

        def work(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT bot, channel, node FROM outbox WHERE id = ?", (id,)).fetchone()
            db.execute(
                "UPDATE outbox SET state = 'delivered', message_id = ?, part = '', error = '', node = NULL "
                "WHERE id = ?",
                (message_id, id),
            )
            if row and row[2] is not None and message_id:
                note(db, row[0], row[1], message_id, row[2])

        await self._store.transaction(work)

    async def failed(self, id: int, error: str, doubtful: bool) -> None:
        """Give a message up. It stays in the outbox, for `chatbridge queue`."""
        await self._store.execute(
            "UPDATE outbox SET state = 'failed', error = ?, doubtful = ? WHERE id = ?", error, doubtful, id
        )

    async def open(self, bot: str) -> list[OutboxMessage]:
        """What is still to go out, oldest first."""

        def work(db: sqlite3.Connection) -> list[OutboxMessage]:
            rows = db.execute(
                f"{_MESSAGE} WHERE bot = ? AND {OUTBOX_OPEN} AND state IN ('pending', 'attempting') ORDER BY id", (bot,)
            )
            return readable(db, OUTBOX, rows, _message)

        return await self._store.transaction(work)

    async def put_aside(self, id: int, reason: str) -> None:
        """What that message holds can't be read: keep it with the damaged rows, for `chatbridge queue`."""
        await self._store.transaction(lambda db: put_aside(db, OUTBOX, (id,), reason))


_MESSAGE = (
    "SELECT id, bot, channel, received, kind, target, part, reply_to, language, state, doubtful, attempts, error, "
    "message_id, created, node FROM outbox"
)

_TYPES = (int, str, str, int | None, str, str, str, str | None, str, str, int, int, str, str, int | float, int | None)


def _message(row: tuple[Any, ...]) -> OutboxMessage:
    values = list(typed(row, *_TYPES))
    if values[4] not in ("send", "edit", "delete"):
        raise ValueError(f"its kind is {values[4]!r}")
    values[10] = bool(values[10])
    return OutboxMessage(*values)
