"""How far the messages of each source (a channel, a stream of updates) were taken in. Knows no chat service.

A cursor moves in the same transaction in which its message is stored (`Inbox.add`), so that a crash between the two
neither loses a message nor takes one in twice.
"""

from __future__ import annotations

import sqlite3

from chatbridge.store.database import Database


class Cursors:
    """The cursors of all bots of a store. A cursor never goes back."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def get(self, bot: str, name: str) -> int | None:
        """The cursor of one source; None where there is none yet."""

        def work(db: sqlite3.Connection) -> int | None:
            row = db.execute("SELECT value FROM marks WHERE bot = ? AND name = ?", (bot, name)).fetchone()
            return row[0] if row else None

        return await self._store.transaction(work)

    async def all(self, bot: str) -> dict[str, int]:
        """All cursors of a bot, by the names of their sources."""
        return await self._store.transaction(
            lambda db: dict(db.execute("SELECT name, value FROM marks WHERE bot = ?", (bot,)).fetchall())
        )

    async def advance(self, bot: str, name: str, value: int) -> None:
        """Move a cursor forward; a smaller value than it has is ignored."""
        await self._store.transaction(lambda db: advance(db, bot, name, value))


def advance(db: sqlite3.Connection, bot: str, name: str, value: int) -> None:
    """The same as `Cursors.advance`, as part of a transaction."""
    db.execute(
        "INSERT INTO marks (bot, name, value) VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
        (bot, name, value),
    )
