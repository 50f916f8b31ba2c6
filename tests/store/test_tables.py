"""What of a column can't be read is the same to SQLite, which looks for it, and to Python, which tells why."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from chatbridge.store.damaged import connect
from chatbridge.store.tables import Column

GOOD: list[tuple[Column, object]] = [
    (Column("text"), ""),
    (Column("text", null=True), None),
    (Column("text", words=("a", "b")), "b"),
    (Column("int"), -5),
    (Column("flag"), 1),
    (Column("real"), 1.5),
    (Column("real"), 3),
    (Column("ids"), b""),
    (Column("ids"), b"12345678"),
    (Column("object"), '{"a": [1]}'),
    (Column("list"), "[{}]"),
    (Column("list", null=True), None),
]
BAD: list[tuple[Column, object, str]] = [
    (Column("text"), None, "it is NULL"),
    (Column("text"), 5, "it is no text"),
    (Column("text"), b"\xff", "it is no text in UTF-8"),
    (Column("text", words=("a", "b")), "c", "it is none of a, b"),
    (Column("int"), "5x", "it is no whole number"),
    (Column("int"), 1.5, "it is no whole number"),
    (Column("flag"), None, "it is NULL"),
    (Column("real"), "x", "it is no number"),
    (Column("ids"), b"123", "it holds no ids of tokens"),
    (Column("ids"), "1234", "it holds no ids of tokens"),
    (Column("object"), "[]", "it is no JSON object"),
    (Column("list"), "{}", "it is no JSON list"),
    (Column("object"), "{", "it is no JSON: "),
    (Column("list"), "5", "it is no JSON list"),
    (Column("object"), 5, "it is no text"),
]


def finds(path: Path, column: Column, value: object) -> bool:
    """Whether SQLite takes the value for a good one."""
    with closing(connect(str(path), 1)) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("INSERT INTO t VALUES (?)", (value,))
        found: sqlite3.Cursor = db.execute(f"SELECT {column.sql('x')} FROM t")
        return bool(found.fetchone()[0])


@pytest.mark.parametrize(("column", "value"), GOOD)
def test_what_can_be_read_is_no_reason_to_complain(tmp_path: Path, column: Column, value: object) -> None:
    assert column.complaint(value) == ""
    assert finds(tmp_path / "db", column, value)


@pytest.mark.parametrize(("column", "value", "why"), BAD)
def test_what_can_not_be_read_is_found_and_told(tmp_path: Path, column: Column, value: object, why: str) -> None:
    told = column.complaint(value)
    assert told.startswith(why) if why.endswith(": ") else told == why
    assert not finds(tmp_path / "db", column, value)
