"""Messages that came in, each stored before it is acknowledged, and kept until its answer is in the outbox.

Knows no chat service: ids are theirs. States: waiting → running → done; dead (the dead letters: given up after too
many tries); dropped by hand.
"""

from __future__ import annotations

import base64
import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from chatbridge.store.cursors import advance
from chatbridge.store.damaged import readable, typed
from chatbridge.store.database import Database, short_key, storable
from chatbridge.store.tables import INBOX, INBOX_OPEN
from chatbridge.types import Attachment, Author, Channel, Message, Press

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class InboxItem:
    """One row of the inbox.

    `asked`: the message or the pressed button; None once it was answered. `service_id`: the message's own id, with
    `call:` before it for a command given in the service's own way, or `press:` and the press's id for a button.
    `attempts` counts runs, the present one included. `message_ids`: the messages that show its answer so far; "" stands
    for one that somebody deleted.
    """

    id: int
    bot: str
    channel: str
    service_id: str
    asked: Message | Press | None
    state: str
    attempts: int
    error: str
    message_ids: tuple[str, ...]
    created: float

    @property
    def key(self) -> str:
        """A short name for this row, the same in all runs of the program."""
        return short_key(self.created, self.id)


class Inbox:
    """The inbox of all bots of a store."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def add(
        self, bot: str, asked: Message | Press, cursor: tuple[str, int] | None = None, *, call: bool = False
    ) -> InboxItem | None:
        """Store a message and, in the same transaction, the cursor of its source. Returns None for a duplicate.

        When this returns, the service may be told that the message has arrived. `cursor`: the source's name and how
        far it is read. `call`: no message of the chat, but a command given in the service's own way.
        """
        packed = storable(json.dumps(_packed(asked), ensure_ascii=False))
        service_id = f"{'call:' if call else ''}{asked.id}"
        if isinstance(asked, Press):
            service_id = f"press:{asked.id or secrets.token_hex(8)}"

        def work(db: sqlite3.Connection) -> InboxItem | None:
            if cursor is not None:
                advance(db, bot, *cursor)
            inserted = db.execute(
                "INSERT INTO inbox (bot, channel, service_id, message, created) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                (bot, asked.channel.id, service_id, packed, time.time()),
            )
            return _get(db, inserted.lastrowid) if inserted.rowcount else None

        return await self._store.transaction(work)

    async def begin(self, id: int) -> InboxItem | None:
        """Count an attempt before it is made. Returns None where nothing is left to be done."""

        def work(db: sqlite3.Connection) -> InboxItem | None:
            changed = db.execute(
                "UPDATE inbox SET state = 'running', attempts = attempts + 1 "
                "WHERE id = ? AND state IN ('waiting', 'running')",
                (id,),
            )
            return _get(db, id) if changed.rowcount else None

        return await self._store.transaction(work)

    async def release(self, id: int) -> None:
        """Take back an attempt that was interrupted on purpose, at a shutdown: it does not count."""
        await self._store.execute(
            "UPDATE inbox SET state = 'waiting', attempts = attempts - 1 WHERE id = ? AND state = 'running'", id
        )

    async def show(self, id: int, message_ids: Sequence[str]) -> None:
        """Remember which messages show the answer so far."""
        await self._store.execute("UPDATE inbox SET live = ? WHERE id = ?", json.dumps(list(message_ids)), id)

    async def finish(self, id: int) -> None:
        """Nothing more is to be done about this message."""
        await self._store.execute("UPDATE inbox SET state = 'done', message = '', live = '[]' WHERE id = ?", id)

    async def dead_letter(self, id: int, error: str) -> None:
        """Give a message up. It stays in the dead letters, for `chatbridge queue`."""
        await self._store.execute("UPDATE inbox SET state = 'dead', error = ? WHERE id = ?", error, id)

    async def open(self, bot: str) -> list[InboxItem]:
        """What is still to be answered, oldest first."""

        def work(db: sqlite3.Connection) -> list[InboxItem]:
            rows = db.execute(
                f"{_ITEM} WHERE bot = ? AND {INBOX_OPEN} AND state IN ('waiting', 'running') ORDER BY id", (bot,)
            )
            return readable(db, INBOX, rows, _item)

        return await self._store.transaction(work)

    async def asked(self, id: int) -> Message | Press | None:
        """What is asked there by now; None where nothing is left to be done."""
        item = await self._store.transaction(lambda db: _get(db, id))
        return item.asked if item is not None and item.state in ("waiting", "running") else None

    async def revise(self, bot: str, message: Message, *, begun: bool = False) -> bool:
        """Put the new words of a message that was edited before its answer began. False where it is not waiting.

        `begun`: also where it has begun, since its files are being fetched.

        An edit changes words: the files that came with the message, and whether it is answered, stay as they are unless
        `message` has others.
        """

        def work(db: sqlite3.Connection) -> bool:
            place = (bot, message.channel.id, message.id)
            rows = db.execute(
                f"{_ITEM} WHERE {_PLACE} AND (state = 'waiting' OR ? AND state = 'running')", (*place, begun)
            )
            for item in readable(db, INBOX, rows, _item):
                if isinstance(old := item.asked, Message):
                    packed = storable(json.dumps(_packed(edited(old, message)), ensure_ascii=False))
                    db.execute("UPDATE inbox SET message = ? WHERE id = ?", (packed, item.id))
                    return True
            return False

        return await self._store.transaction(work)

    async def withdraw(self, bot: str, channel: str, service_id: str, *, begun: bool = False) -> bool:
        """Do not answer a message that was deleted in its chat. False where it is not waiting.

        `begun`: see `revise`.
        """
        return bool(
            await self._store.execute(
                "UPDATE inbox SET state = 'done', message = '', live = '[]' "
                f"WHERE {_PLACE} AND (state IN ('waiting', 'dead') OR ? AND state = 'running')",
                *(bot, channel, service_id, begun),
            )
        )


_ITEM = "SELECT id, bot, channel, service_id, message, state, attempts, error, live, created FROM inbox"


_PLACE = "bot = ? AND channel = ? AND service_id = ?"


def edited(old: Message, new: Message) -> Message:
    """A message after an edit: `new`, with what an edit doesn't tell of taken from `old`."""
    unreadable = new.unreadable or ("" if new.text else old.unreadable)
    return replace(
        new,
        attachments=new.attachments or old.attachments,
        wanted=old.wanted if new.wanted is None else new.wanted,
        unreadable=unreadable,
        reply_to=new.reply_to if new.reply_to is not None else old.reply_to,
        quoted=new.quoted or old.quoted,
    )


def _get(db: sqlite3.Connection, id: int | None) -> InboxItem | None:
    found = readable(db, INBOX, db.execute(f"{_ITEM} WHERE id = ?", (id,)), _item)
    return found[0] if found else None


_TYPES = (int, str, str, str, str, str, int, str, str, int | float)


def _item(row: tuple[Any, ...]) -> InboxItem:
    id, bot, channel, service_id, message, state, attempts, error, live, created = typed(row, *_TYPES)
    if not message and state in ("waiting", "running", "dead"):
        raise ValueError("there is no message in it")
    asked = _unpacked(json.loads(message)) if message else None
    if not isinstance(ids := json.loads(live), list) or not all(isinstance(id, str) for id in ids):
        raise TypeError("`live` is no list of ids")
    return InboxItem(id, bot, channel, service_id, asked, state, attempts, error, tuple(ids), created)


def _packed(asked: Message | Press) -> dict[str, Any]:
    if isinstance(asked, Press):
        return asdict(asked)
    files = [
        [file.name, file.media_type, base64.b64encode(file.data).decode(), file.size, file.source]
        for file in asked.attachments
    ]
    return {**asdict(asked), "attachments": files}


def _unpacked(fields: dict[str, Any]) -> Message | Press:
    """The message or press. Raises: TypeError, ValueError and the like for anything that `_packed` would not make."""
    channel, author = Channel(**fields.pop("channel")), fields.pop("author")
    author = Author(**{**author, "roles": tuple(author.get("roles", ()))})
    if "action" in fields:
        return _checked(Press(**fields, channel=channel, author=author))
    files = tuple(
        Attachment(name, kind, base64.b64decode(data, validate=True), *more)
        for name, kind, data, *more in fields.pop("attachments")
    )
    return _checked(Message(**fields, channel=channel, author=author, attachments=files))


def _checked(asked: Message | Press) -> Message | Press:
    checked: Message | Press = _adapter(isinstance(asked, Press)).validate_python(asdict(asked))
    return checked


@cache
def _adapter(press: bool) -> TypeAdapter[Any]:
    """Checks the types of all fields, also of nested ones. Made when it is needed, so that `--help` stays quick."""
    from pydantic import TypeAdapter

    return TypeAdapter(Press if press else Message)
