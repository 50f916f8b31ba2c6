"""Messages that came in, each kept from before it is acknowledged until its answer is in the outbox.

Knows no chat service: ids are theirs, and so are the marks, which say how far a service's messages were taken in.
States: waiting → running → done; dead after too many tries; dropped by hand.
"""

from __future__ import annotations

import base64
import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chatbridge.store.database import Database, short_key, storable
from chatbridge.types import Attachment, Author, Channel, Message, Press


@dataclass(frozen=True, slots=True)
class Received:
    """One row. `asked` is None once it was answered. `attempts` counts runs, the present one included.

    `service_id` is the message's own, or says what else it is: `call:` a command, `press:` a button. `live`: ids of
    messages in which an answer was being shown; an empty one was taken away by somebody.
    """

    id: int
    bot: str
    channel: str
    service_id: str
    asked: Message | Press | None
    state: str
    attempts: int
    error: str
    live: tuple[str, ...]
    created: float

    @property
    def key(self) -> str:
        """Stands for it in all runs, and is short."""
        return short_key(self.created, self.id)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that is in the conversation. `partial`: it ended too early; `latest`: nothing was said after it.

    `place`: the key of its conversation.
    """

    place: str
    node: int
    text: str
    partial: bool
    latest: bool


class Inbox:
    """The inbox of all bots of a store."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def add(
        self, bot: str, asked: Message | Press, mark: tuple[str, int] | None = None, *, call: bool = False
    ) -> Received | None:
        """Keep a message, and with it how far its service was read; None for one that was kept before.

        When this returns, the service may be told that the message has arrived. `call`: it is no message of the chat
        but a command that was given in a way of the service's own.
        """
        packed = storable(json.dumps(_packed(asked), ensure_ascii=False))
        service_id = f"{'call:' if call else ''}{asked.id}"
        if isinstance(asked, Press):
            service_id = f"press:{asked.id or secrets.token_hex(8)}"

        def work(db: sqlite3.Connection) -> Received | None:
            if mark is not None:
                _advance(db, bot, *mark)
            cursor = db.execute(
                "INSERT INTO inbox (bot, channel, service_id, message, created) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                (bot, asked.channel.id, service_id, packed, time.time()),
            )
            return _get(db, cursor.lastrowid) if cursor.rowcount else None

        return await self._store.transaction(work)

    async def begin(self, id: int) -> Received | None:
        """Count an attempt, before it is made; None where there is nothing to be done any longer."""

        def work(db: sqlite3.Connection) -> Received | None:
            changed = db.execute(
                "UPDATE inbox SET state = 'running', attempts = attempts + 1 "
                "WHERE id = ? AND state IN ('waiting', 'running')",
                (id,),
            )
            return _get(db, id) if changed.rowcount else None

        return await self._store.transaction(work)

    async def release(self, id: int) -> None:
        """Take an attempt back that was interrupted on purpose, at a shutdown."""
        await self._store.execute(
            "UPDATE inbox SET state = 'waiting', attempts = attempts - 1 WHERE id = ? AND state = 'running'", id
        )

    async def show(self, id: int, live: Sequence[str]) -> None:
        """Remember the messages in which the answer is being shown."""
        await self._store.execute("UPDATE inbox SET live = ? WHERE id = ?", json.dumps(list(live)), id)

    async def finish(self, id: int) -> None:
        """Nothing more is to be done about this message."""
        await self._store.execute("UPDATE inbox SET state = 'done', message = '', live = '[]' WHERE id = ?", id)

    async def bury(self, id: int, error: str) -> None:
        """Give a message up; it is kept for `chatbridge queue`."""
        await self._store.execute("UPDATE inbox SET state = 'dead', error = ? WHERE id = ?", error, id)

    async def open(self, bot: str) -> list[Received]:
        """What is still to be answered, oldest first."""

        def work(db: sqlite3.Connection) -> list[Received]:
            rows = db.execute(f"{_RECEIVED} WHERE bot = ? AND state IN ('waiting', 'running') ORDER BY id", (bot,))
            return [_received(row) for row in rows]

        return await self._store.transaction(work)

    async def kept_answer(self, bot: str, channel: str, service_id: str) -> KeptAnswer | None:
        """What the conversation holds as the answer to that message: the program ended before it was delivered."""

        def work(db: sqlite3.Connection) -> KeptAnswer | None:
            row = db.execute(
                "SELECT conversations.channel, answer.id, answer.text, answer.partial, head = answer.id FROM messages "
                "JOIN nodes answer ON answer.parent = messages.node "
                "JOIN conversations ON conversations.id = answer.conversation AND current "
                "WHERE messages.bot = ? AND messages.channel = ? AND message_id = ? "
                "AND answer.role = 'assistant' AND NOT removed ORDER BY answer.id DESC LIMIT 1",
                (bot, channel, service_id),
            ).fetchone()
            return KeptAnswer(row[0], row[1], row[2], bool(row[3]), bool(row[4])) if row else None

        return await self._store.transaction(work)

    async def revise(self, bot: str, message: Message) -> bool:
        """Put an edited message in the place of what it was, if nobody has begun to answer it."""
        packed = storable(json.dumps(_packed(message), ensure_ascii=False))
        return bool(
            await self._store.execute(
                "UPDATE inbox SET message = ? WHERE bot = ? AND channel = ? AND service_id = ? AND state = 'waiting'",
                *(packed, bot, message.channel.id, message.id),
            )
        )

    async def withdraw(self, bot: str, channel: str, service_id: str) -> bool:
        """A message was deleted in its chat: it is not to be answered any more. False where it is not waiting."""
        return bool(
            await self._store.execute(
                "UPDATE inbox SET state = 'done', message = '', live = '[]' "
                "WHERE bot = ? AND channel = ? AND service_id = ? AND state IN ('waiting', 'dead')",
                *(bot, channel, service_id),
            )
        )

    # --- marks -------------------------------------------------------------------------------------------------

    async def mark(self, bot: str, name: str) -> int | None:
        """How far the messages of a source (a channel, a stream of updates) were taken in."""

        def work(db: sqlite3.Connection) -> int | None:
            row = db.execute("SELECT value FROM marks WHERE bot = ? AND name = ?", (bot, name)).fetchone()
            return row[0] if row else None

        return await self._store.transaction(work)

    async def marks(self, bot: str) -> dict[str, int]:
        """All marks of a bot."""
        return await self._store.transaction(
            lambda db: dict(db.execute("SELECT name, value FROM marks WHERE bot = ?", (bot,)).fetchall())
        )

    async def advance(self, bot: str, name: str, value: int) -> None:
        """Move a mark forward; it never goes back."""
        await self._store.transaction(lambda db: _advance(db, bot, name, value))

    # ------------------------------------------------------------------------------------------------------------

    async def prune(self, days: float) -> None:
        """Forget what was done with longer ago; services do not deliver a message again after so long."""
        before = time.time() - days * 86_400
        await self._store.execute("DELETE FROM inbox WHERE state IN ('done', 'dropped') AND created < ?", before)


_RECEIVED = "SELECT id, bot, channel, service_id, message, state, attempts, error, live, created FROM inbox"


def _get(db: sqlite3.Connection, id: int | None) -> Received:
    return _received(db.execute(f"{_RECEIVED} WHERE id = ?", (id,)).fetchone())


def _received(row: tuple[Any, ...]) -> Received:
    id, bot, channel, service_id, message, state, attempts, error, live, created = row
    found = _unpacked(json.loads(message)) if message else None
    return Received(id, bot, channel, service_id, found, state, attempts, error, tuple(json.loads(live)), created)


def _advance(db: sqlite3.Connection, bot: str, name: str, value: int) -> None:
    db.execute(
        "INSERT INTO marks (bot, name, value) VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
        (bot, name, value),
    )


def _packed(asked: Message | Press) -> dict[str, Any]:
    if isinstance(asked, Press):
        return asdict(asked)
    files = [[file.name, file.media_type, base64.b64encode(file.data).decode()] for file in asked.attachments]
    return {**asdict(asked), "attachments": files}


def _unpacked(fields: dict[str, Any]) -> Message | Press:
    channel, author = Channel(**fields.pop("channel")), fields.pop("author")
    author = Author(**{**author, "roles": tuple(author.get("roles", ()))})
    if "action" in fields:
        return Press(**fields, channel=channel, author=author)
    files = tuple(Attachment(name, kind, base64.b64decode(data)) for name, kind, data in fields.pop("attachments"))
    return Message(**fields, channel=channel, author=author, attachments=files)
