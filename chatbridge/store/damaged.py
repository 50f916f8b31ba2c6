"""Rows that can't be read: kept whole in the table `damaged`, out of everybody's way. Knows no bot.

A row that others point at (a conversation, one of its messages) stays, with harmless values in place of the bad ones;
any other is taken out. Each is logged once, and `chatbridge queue` lists it.
"""

from __future__ import annotations

import binascii
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, TypeVar

from chatbridge.errors import StoreError
from chatbridge.store.tables import CONVERSATIONS, NODES, TABLES, Table

log = logging.getLogger(__name__)

T = TypeVar("T")

UNREADABLE = (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading a bad value raises."""


class Connection(sqlite3.Connection):
    """A connection that remembers what was put aside in the present transaction, to be told once that is written."""

    noticed: list[str]


def connect(path: str, busy_seconds: float) -> Connection:
    """A connection on which a text that is no UTF-8 comes as bytes, so that one such row fails no query."""
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False, factory=Connection
    )
    connection.noticed = []
    connection.text_factory = _text_or_bytes
    connection.create_function("is_utf8", 1, _is_utf8, deterministic=True)
    return connection


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _is_utf8(data: object) -> bool:
    return not isinstance(data, bytes) or isinstance(_text_or_bytes(data), str)


def readable(db: sqlite3.Connection, table: Table, rows: Iterable[tuple[Any, ...]], read: Callable[..., T]) -> list[T]:
    """What `read` makes of each row; those that it can't read are put aside. A row begins with its key."""
    found = []
    for row in list(rows):
        try:
            found.append(read(row))
        except UNREADABLE as error:
            put_aside(db, table, row[: len(table.key)], f"{type(error).__name__}: {error}")
    return found


def typed(row: tuple[Any, ...], *types: type | UnionType) -> tuple[Any, ...]:
    """The row, if its values are of these types. Raises: TypeError."""
    for value, wanted in zip(row, types, strict=True):
        if not isinstance(value, wanted):
            raise TypeError(f"a column holds {type(value).__name__} in place of {wanted}")
    return row


def put_aside(
    db: sqlite3.Connection, table: Table, key: tuple[Any, ...], reason: str = "", column: str | None = None
) -> None:
    """Keep a row whole in `damaged`, and take it out or mend it.

    `reason`: why, where its columns do not tell; `column`: the one whose value is good for its kind, and still wrong.
    """
    where = " AND ".join(f"{name} = ?" for name in table.key)
    found = db.execute(f"SELECT * FROM {table.name} WHERE {where}", key)
    names = [column[0] for column in found.description]
    values = found.fetchone()
    if values is None and table.key != ("id",):
        # A text that is no UTF-8 came as bytes, and no text is equal to bytes: no index finds that.
        where = " AND ".join(f"CAST({name} AS BLOB) IS CAST(? AS BLOB)" for name in table.key)
        values = db.execute(f"SELECT * FROM {table.name} WHERE {where}", key).fetchone()
    if values is None:
        return
    row = dict(zip(names, values, strict=True))
    types = db.execute(f"SELECT {', '.join(f'typeof({name})' for name in names)} FROM {table.name} WHERE {where}", key)
    kept = {name: _kept(value, kind) for (name, value), kind in zip(row.items(), types.fetchone(), strict=True)}
    complaints = table.complaints(row)
    if column is not None:
        complaints.setdefault(column, reason)
    told = "; ".join(f"{name}: {why}" for name, why in complaints.items()) or reason
    packed = json.dumps(kept)
    known = db.execute("SELECT 1 FROM damaged WHERE origin = ? AND kept = ?", (table.name, packed)).fetchone()
    aside = db.execute(
        "INSERT INTO damaged (origin, reason, kept, mended, created) SELECT ?, ?, ?, ?, ? WHERE ?",
        (table.name, told, packed, bool(table.mended), time.time(), known is None),
    )
    if table.mended:
        _mend(db, table, row, set(complaints) or set(table.mended))
    else:
        db.execute(f"DELETE FROM {table.name} WHERE {where}", key)
    if isinstance(db, Connection) and known is None:
        name = ", ".join(str(part) for part in key)
        done = "mended, and kept" if table.mended else "put aside"
        db.noticed.append(
            f"row {name} of table {table.name} can't be read ({told}): it is {done} as damaged-{aside.lastrowid}; "
            "`chatbridge queue` lists it"
        )


def restore(db: sqlite3.Connection, id: int) -> None:
    """Put a row back where it was taken out, for a version that can read it. Raises: StoreError."""
    row = db.execute("SELECT origin, kept, mended FROM damaged WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise StoreError(f"there is no damaged-{id}; `chatbridge queue` lists what there is")
    if row[2]:
        raise StoreError(f"damaged-{id} was mended where it is: it can only be dropped")
    kept = json.loads(row[1])
    values = [bytes.fromhex(next(iter(one.values()))) if isinstance(one, dict) else one for one in kept.values()]
    places = ", ".join("CAST(? AS TEXT)" if isinstance(one, dict) and "text" in one else "?" for one in kept.values())
    try:
        db.execute(f"INSERT INTO {TABLES[row[0]].name} ({', '.join(kept)}) VALUES ({places})", values)
    except sqlite3.IntegrityError as error:
        raise StoreError(f"damaged-{id} can't go back, another row has its place: {error}") from error
    db.execute("DELETE FROM damaged WHERE id = ?", (id,))


def count(db: sqlite3.Connection) -> int:
    """How many rows are kept aside."""
    (rows,) = db.execute("SELECT count(*) FROM damaged").fetchone()
    return int(rows)


def _kept(value: object, kind: str) -> object:
    if isinstance(value, bytes):
        return {"text" if kind == "text" else "blob": binascii.hexlify(value).decode()}
    return value


def _mend(db: sqlite3.Connection, table: Table, row: dict[str, Any], bad: set[str]) -> None:
    if bad & set(table.together):
        bad |= set(table.together)
    if table is CONVERSATIONS and bad & {"bot", "channel"}:
        bad.add("current")
    values = {name: table.mended[name] for name in table.mended if name in bad}
    if table is CONVERSATIONS and "head" in bad:  # what was said last is the best guess
        values["head"] = _first(db, "SELECT max(id) FROM nodes WHERE conversation = ? AND removed IS NOT 1", row["id"])
    if table is NODES and "text" in bad and isinstance(row["text"], bytes):
        values["text"] = row["text"].decode("utf-8", "replace")  # most of it may be good
    if table is NODES and "conversation" in bad:  # the messages before and after it know
        beside = "SELECT conversation FROM nodes WHERE (id = ? OR parent = ?) AND typeof(conversation) = 'integer'"
        values["conversation"] = _first(db, beside, row["parent"], row["id"])
    try:
        if values:
            changes = ", ".join(f"{name} = ?" for name in values)
            db.execute(f"UPDATE {table.name} SET {changes} WHERE id = ?", (*values.values(), row["id"]))
    except sqlite3.IntegrityError as error:  # it stays as it is: no query that is made finds it
        log.error("row %s of table %s can't be mended: %s", row["id"], table.name, error)


def _first(db: sqlite3.Connection, query: str, *values: object) -> object:
    found = db.execute(query, values).fetchone()
    return found[0] if found else None
