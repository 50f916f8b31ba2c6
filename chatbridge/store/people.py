"""Who may talk to a bot, because an admin let them in, and what each person's answers have cost. Knows no settings."""

from __future__ import annotations

import secrets
import sqlite3
import time
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.store.database import Database, storable
from chatbridge.types import Author

LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""What codes are made of: nothing that looks like something else."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who asked to be let in, or was. `code` is what an admin types."""

    user: str
    name: str
    code: str
    paired: bool


@dataclass(frozen=True, slots=True)
class Spent:
    """What one person's answers of a day have cost, in tokens."""

    user: str
    name: str
    tokens: int
    answers: int


class People:
    """The people of all bots of a store."""

    def __init__(self, store: Database) -> None:
        self._store = store

    # --- pairing -----------------------------------------------------------------------------------------------

    async def ask(self, bot: str, author: Author) -> Person:
        """Somebody wants to be let in: what is known of them, with a code; the same each time."""

        def work(db: sqlite3.Connection) -> Person:
            code = "".join(secrets.choice(LETTERS) for _ in range(8))
            db.execute(
                "INSERT INTO people (bot, user, name, code, created) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (bot, user) DO UPDATE SET name = excluded.name",
                (bot, author.id, storable(author.name), code, time.time()),
            )
            return _person(db.execute(f"{_PERSON} AND user = ?", (bot, author.id)).fetchone())

        return await self._store.transaction(work)

    async def paired(self, bot: str, user: str) -> bool:
        """Whether an admin has let that person in."""
        query = "SELECT 1 FROM people WHERE bot = ? AND user = ? AND paired"
        return await self._store.transaction(lambda db: db.execute(query, (bot, user)).fetchone()) is not None

    async def pair(self, bot: str, code: str, by: str) -> Person | None:
        """Let in whoever has that code, or that id; None where nobody has."""

        def work(db: sqlite3.Connection) -> Person | None:
            row = db.execute(f"{_PERSON} AND (code = ? OR user = ?)", (bot, code.upper(), code)).fetchone()
            if row is None:
                return None
            db.execute("UPDATE people SET paired = 1, paired_by = ? WHERE bot = ? AND user = ?", (by, bot, row[0]))
            return replace(_person(row), paired=True)

        return await self._store.transaction(work)

    async def unpair(self, bot: str, user: str) -> bool:
        """Show somebody the door again, by id or by the code they had; False where nobody is called so."""
        statement = "DELETE FROM people WHERE bot = ? AND (user = ? OR code = ?)"
        return await self._store.execute(statement, bot, user, user.upper()) > 0

    async def all(self, bot: str) -> list[Person]:
        """Everybody who asked or was let in, in the order of their asking."""
        query = f"{_PERSON} ORDER BY created"
        return await self._store.transaction(lambda db: [_person(row) for row in db.execute(query, (bot,))])

    # --- what answers cost -------------------------------------------------------------------------------------

    async def spend(self, bot: str, author: Author, day: str, tokens: int) -> None:
        """Count an answer to that person."""
        await self._store.execute(
            "INSERT INTO usage (bot, user, day, name, tokens, answers) VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT DO "
            "UPDATE SET name = excluded.name, tokens = tokens + excluded.tokens, answers = answers + 1",
            *(bot, author.id, day, storable(author.name), tokens),
        )

    async def spent(self, bot: str, user: str, day: str) -> int:
        """Tokens that the answers to that person have cost on that day."""
        query = "SELECT tokens FROM usage WHERE bot = ? AND user = ? AND day = ?"
        row = await self._store.transaction(lambda db: db.execute(query, (bot, user, day)).fetchone())
        return row[0] if row else 0

    async def spending(self, bot: str, day: str) -> list[Spent]:
        """What everybody's answers have cost on that day, the dearest first."""
        query = "SELECT user, name, tokens, answers FROM usage WHERE bot = ? AND day = ? ORDER BY tokens DESC"
        return await self._store.transaction(lambda db: [Spent(*row) for row in db.execute(query, (bot, day))])


_PERSON = "SELECT user, name, code, paired FROM people WHERE bot = ?"


def _person(row: tuple[Any, ...]) -> Person:
    user, name, code, paired = row
    return Person(user, name, code, bool(paired))
