"""How far the messages of each source (a channel, a stream of updates) were taken in. Knows no chat service.

A cursor moves in the same transaction in which its message is stored (`Inbox.add`), so that a crash between the two
neither loses a message nor takes one in twice.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from chatbridge.store.damaged import readable, typed
from chatbridge.store.database import Database
from chatbridge.store.tables import CURSORS


class Cursors:
    """The cursors of all bots of a store. A cursor never goes back."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def get(self, bot: str, name: str) -> int | None:
        """The cursor of one source; None where there is none yet."""

        def work(db: sqlite3.Connection) -> int | None:
            rows = db.execute(f"{_CURSOR} AND name = ?", (bot, name))
            return dict(readable(db, CURSORS, rows, _cursor)).get(name)

        return await self._store.transaction(work)

    async def all(self, bot: str) -> dict[str, int]:
        """All cursors of a bot, by the names of their sources."""
        return await self._store.transaction(
            lambda db: dict(readable(db, CURSORS, db.execute(_CURSOR, (bot,)), _cursor))
        )

    async def advance(self, bot: str, name: str, value: int) -> None:
        """Move a cursor forward; a smaller value than it has is ignored."""
        await self._store.transaction(lambda db: advance(db, bot, name, value))


_CURSOR = "SELECT bot, name, value FROM marks WHERE bot = ?"


def _cursor(row: tuple[Any, ...]) -> tuple[str, int]:
    _, name, value = typed(row, str, str, int)
    return name, value


def advance(db: sqlite3.Connection, bot: str, name: str, value: int) -> None:
    """The same as `Cursors.advance`, as part of a transaction."""
    readable(db, CURSORS, db.execute(f"{_CURSOR} AND name = ?", (bot, name)), _cursor)  # a bad one would stay greatest
    db.execute(
        "INSERT INTO marks (bot, name, value) VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
        (bot, name, value),
    )
