"""Who may talk to a bot because an admin let them in. Knows no settings, which may let in others."""

from __future__ import annotations

import secrets
import sqlite3
import time
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.store.damaged import readable, typed
from chatbridge.store.database import Database, storable
from chatbridge.store.tables import PEOPLE
from chatbridge.types import Author

LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""What codes are made of: nothing that looks like something else."""

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Pairing:
    """Somebody who asked to be let in, or was (`paired`). `code` is what an admin types."""

    user: str
    name: str
    code: str
    paired: bool


class Pairings:
    """The pairings of all bots of a store."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def request(
        self,
        bot: str,
        author: Author,
        *,
        valid_days: float | None = None,
        max_open: int | None = None,
        now: float | None = None,
    ) -> Pairing | None:
        """Somebody wants to be let in: their pairing, with a code that stays the same each time they ask.

        Codes older than `valid_days` that nobody has used are forgotten first. None where there would be more than
        `max_open` of them. `now`: the time, in seconds since the epoch.
        """
        now = time.time() if now is None else now

        def work(db: sqlite3.Connection) -> Pairing | None:
            if valid_days is not None:  # one from a time that has not come yet was made by a clock that was ahead
                span = (now - valid_days * DAY, now + DAY)
                db.execute(f"DELETE FROM {_WAITING} AND created NOT BETWEEN ? AND ?", (bot, *span))
            if max_open is not None:
                known = db.execute(f"{_PAIRING} AND user = ?", (bot, author.id)).fetchone()
                open_codes = f"SELECT count(*) FROM {_WAITING}"
                if known is None and db.execute(open_codes, (bot,)).fetchone()[0] >= max_open:
                    return None
            code = "".join(secrets.choice(LETTERS) for _ in range(8))
            readable(db, PEOPLE, db.execute(f"{_PAIRING} AND user = ?", (bot, author.id)), _pairing)
            db.execute(
                "INSERT INTO people (bot, user, name, code, created) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (bot, user) DO UPDATE SET name = excluded.name",
                (bot, author.id, storable(author.name), code, now),
            )
            return _pairing(db.execute(f"{_PAIRING} AND user = ?", (bot, author.id)).fetchone())

        return await self._store.transaction(work)

    async def paired(self, bot: str, user: str) -> bool:
        """Whether an admin has let that person in."""
        query = "SELECT 1 FROM people WHERE bot = ? AND user = ? AND paired IS 1"
        return await self._store.transaction(lambda db: db.execute(query, (bot, user)).fetchone()) is not None

    async def pair(self, bot: str, code: str, by: str) -> Pairing | None:
        """Let in whoever has that code or that id. Returns None where nobody has."""

        def work(db: sqlite3.Connection) -> Pairing | None:
            by_code = db.execute(f"{_PAIRING} AND code = ?", (bot, code.upper())).fetchall()
            by_id = db.execute(f"{_PAIRING} AND user = ?", (bot, code)).fetchall()
            for found in readable(db, PEOPLE, [*by_code, *by_id], _pairing):
                place = (by, bot, found.user)
                db.execute("UPDATE people SET paired = 1, paired_by = ? WHERE bot = ? AND user = ?", place)
                return replace(found, paired=True)
            return None

        return await self._store.transaction(work)

    async def unpair(self, bot: str, user: str) -> bool:
        """Let somebody in no longer, by id or by code. False where there is no such person."""

        def work(db: sqlite3.Connection) -> bool:
            deleted = db.execute("DELETE FROM people WHERE bot = ? AND user = ?", (bot, user)).rowcount
            return (
                deleted + db.execute("DELETE FROM people WHERE bot = ? AND code = ?", (bot, user.upper())).rowcount > 0
            )

        return await self._store.transaction(work)

    async def all(self, bot: str) -> list[Pairing]:
        """Everybody who asked or was let in, in the order in which they asked."""
        query = f"{_PAIRING} ORDER BY created"
        return await self._store.transaction(lambda db: readable(db, PEOPLE, db.execute(query, (bot,)), _pairing))


_PAIRING = "SELECT bot, user, name, code, paired FROM people WHERE bot = ?"

_WAITING = "people INDEXED BY people_waiting WHERE bot = ? AND NOT paired"
"""Left to itself, SQLite would rather look at everybody whom the bot knows."""


def _pairing(row: tuple[Any, ...]) -> Pairing:
    _, user, name, code, paired = typed(row, str, str, str, str, int)
    return Pairing(user, name, code, bool(paired))
