"""What each person's answers have cost, day by day, in tokens. Knows no limits."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from chatbridge.store.damaged import readable, typed
from chatbridge.store.database import Database, storable
from chatbridge.store.tables import USAGE
from chatbridge.types import Author


@dataclass(frozen=True, slots=True)
class DailyUsage:
    """What one person's answers of a day have cost, in tokens."""

    user: str
    name: str
    tokens: int
    answers: int


class UsageLog:
    """The usage of all bots of a store."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def add(self, bot: str, author: Author, day: str, tokens: int) -> None:
        """Count one answer to that person."""

        def work(db: sqlite3.Connection) -> None:
            readable(db, USAGE, db.execute(f"{_USAGE} AND user = ?", (bot, day, author.id)), _usage)
            db.execute(
                "INSERT INTO usage (bot, user, day, name, tokens, answers) VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT DO "
                "UPDATE SET name = excluded.name, tokens = tokens + excluded.tokens, answers = answers + 1",
                (bot, author.id, day, storable(author.name), tokens),
            )

        await self._store.transaction(work)

    async def tokens(self, bot: str, user: str, day: str) -> int:
        """How many tokens the answers to that person have cost on that day."""

        def work(db: sqlite3.Connection) -> int:
            rows = db.execute(f"{_USAGE} AND user = ?", (bot, day, user))
            return sum(usage.tokens for usage in readable(db, USAGE, rows, _usage))

        return await self._store.transaction(work)

    async def bring_back(self, bot: str, day: str) -> None:
        """Count what is written under later days as used on this one: the clock was ahead, and was set back."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO usage (bot, user, day, name, tokens, answers) "
                "SELECT bot, user, ?, name, sum(tokens), sum(answers) FROM usage INDEXED BY usage_by_day "
                "WHERE bot = ? AND day > ? GROUP BY user ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, "
                "answers = answers + excluded.answers",
                (day, bot, day),
            )
            db.execute("DELETE FROM usage INDEXED BY usage_by_day WHERE bot = ? AND day > ?", (bot, day))

        await self._store.transaction(work)

    async def of_day(self, bot: str, day: str) -> list[DailyUsage]:
        """What everybody's answers have cost on that day, the most tokens first."""
        query = f"{_USAGE.replace('usage WHERE', 'usage INDEXED BY usage_by_day WHERE')} ORDER BY tokens DESC"
        return await self._store.transaction(lambda db: readable(db, USAGE, db.execute(query, (bot, day)), _usage))


_USAGE = "SELECT bot, user, day, name, tokens, answers FROM usage WHERE bot = ? AND day = ?"


def _usage(row: tuple[Any, ...]) -> DailyUsage:
    _, user, _, name, tokens, answers = typed(row, str, str, str, str, int, int)
    return DailyUsage(user, name, tokens, answers)
