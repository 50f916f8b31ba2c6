"""Looks for rows that nobody would find, or would stumble over, in steps of a few milliseconds, and puts them aside.

Knows what a good row looks like (`tables`) and what becomes of a bad one (`damaged`); knows no bot.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from typing import Any

from chatbridge.store.damaged import put_aside
from chatbridge.store.tables import CONVERSATIONS, INBOX, INBOX_OPEN, NODES, OUTBOX, OUTBOX_OPEN, TABLES, Table

log = logging.getLogger(__name__)

STEP_ROWS = 250
"""Rows that one step looks at."""

_LEAST = -(1 << 62)
"""Less than any id."""


class Audit:
    """One way through all tables; `nodes`: also through the messages of conversations.

    Without those a bad message is found when it is read. What is still to be answered or delivered comes first, then
    conversations, then all others.
    """

    def __init__(self, *, nodes: bool = False) -> None:
        self.done = False
        self._db: sqlite3.Connection
        self._steps = self._all(nodes)

    def step(self, db: sqlite3.Connection) -> bool:
        """Look at some rows more, as part of a transaction; False where there are none left."""
        self._db = db
        if not self.done:
            self.done = next(self._steps, True)
        return not self.done

    def _all(self, nodes: bool) -> Iterator[bool]:
        """Each False is a step."""
        for box, waiting in ((INBOX, INBOX_OPEN), (OUTBOX, OUTBOX_OPEN)):
            for (id,) in self._found(box, f"SELECT id FROM {box.name} WHERE {waiting} AND {box.bad()}"):
                put_aside(self._db, box, (id,))
            yield False
        for table in (CONVERSATIONS, *(one for one in TABLES.values() if one is not CONVERSATIONS)):
            if table is not NODES or nodes:
                yield from self._through(table)

    def _through(self, table: Table) -> Iterator[bool]:
        keys = ", ".join(table.key)
        astray = [_astray(name) if table is CONVERSATIONS else "0" for name in ("head", "trim")]
        columns = ", ".join((keys, *(f"typeof({name})" for name in table.key), table.bad(), *astray))
        sign, last, places = ">=", [_LEAST if name == "id" else "" for name in table.key], ["?"] * len(table.key)
        while True:
            bounds = f"({keys}) {sign} ({', '.join(places)})"
            query = f"SELECT {columns} FROM {table.name} WHERE {bounds} ORDER BY {keys} LIMIT {STEP_ROWS}"
            rows = self._found(table, query, *last)
            for row in rows:
                self._judge(table, row)
            if len(rows) < STEP_ROWS:
                yield False
                return
            width = len(table.key)
            sign, last = ">", list(rows[-1][:width])
            # A text that is no UTF-8 came as bytes, and these are greater than all texts.
            bad = [isinstance(rows[-1][at], bytes) and rows[-1][width + at] == "text" for at in range(width)]
            places = ["CAST(? AS TEXT)" if one else "?" for one in bad]
            yield False

    def _judge(self, table: Table, row: tuple[Any, ...]) -> None:
        key, (bad, *astray) = row[: len(table.key)], row[2 * len(table.key) :]
        if bad:
            put_aside(self._db, table, key)
        for name, there in zip(("head", "trim"), astray, strict=True):
            if there:  # it could not go on at another's message
                put_aside(self._db, table, key, "it is no message of this conversation", name)

    def _found(self, table: Table, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:  # a damaged page: what is on others can still be read
            log.error("table %s can't be looked through: %s", table.name, error)
            return []


def _astray(name: str) -> str:
    return (
        f"({name} IS NOT NULL AND NOT EXISTS "
        f"(SELECT 1 FROM nodes WHERE nodes.id = conversations.{name} AND conversation = conversations.id))"
    )
