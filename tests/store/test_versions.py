"""Files of each earlier version: brought up to date with all that was in them, by steps forward alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from chatbridge.store import Inbox, MessageIndex, Outbox, Store
from chatbridge.store.schema import MIGRATIONS, migrate
from chatbridge.types import Author, Channel, Message

INBOX = "INSERT INTO inbox (id, bot, channel, service_id, message, state, created)"
OUTBOX = "INSERT INTO outbox (id, bot, channel, received, kind, state, created)"
ROWS = (
    (1, "INSERT INTO conversations (id, bot, channel, head, created) VALUES (1, 'bot', 'room', 2, 1.0)"),
    (1, "INSERT INTO nodes (id, conversation, role, text, service_id, created) VALUES (1, 1, 'user', 'hi', '1', 2.0)"),
    (1, "INSERT INTO nodes (id, conversation, parent, role, text, created) VALUES (2, 1, 1, 'assistant', 'oh', 3.0)"),
    (2, f"{INBOX} VALUES (1, 'bot', 'room', '1', '', 'done', 2.0)"),
    (2, f"{OUTBOX} VALUES (1, 'bot', 'room', 1, 'send', 'pending', 3.0)"),
    (2, f"{OUTBOX} VALUES (2, 'bot', 'room', 1, 'send', 'delivered', 3.0)"),
    (3, "INSERT INTO messages VALUES ('bot', 'room', '1', 1)"),
    (3, "UPDATE outbox SET node = 2"),
    (3, "INSERT INTO usage VALUES ('bot', 'ann', '2026-01-01', 'Ann', 5, 1)"),
)


def made(path: Path, version: int) -> None:
    """A file of that version, with the rows that it could have."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        db.execute(f"PRAGMA user_version = {version}")
        for since, row in ROWS:
            if since <= version:
                db.execute(row)


def schema(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_file_of_an_earlier_version_goes_on(tmp_path: Path, version: int) -> None:
    made(tmp_path / "old", version)
    await (await Store.open(tmp_path / "new")).aclose()
    store = await Store.open(tmp_path / "old")
    try:
        assert [node.text for node in await store.path(1)] == ["hi", "oh"]
        if version > 1:
            ours = Message("1", Channel("room"), Author("ann", "Ann"), "hi")
            assert await Inbox(store).add("bot", ours) is None, "what was answered is known"
            (row,) = await Outbox(store).open("bot")
            await Outbox(store).delivered(row.id, "m")
            found = await MessageIndex(store).find("bot", "room", "m")
            assert (found is not None) == (version > 2)
        assert store.damaged_rows == 0
        for pragma, good in (("foreign_key_check", []), ("integrity_check", [("ok",)]), ("auto_vacuum", [(2,)])):
            rows = await store.transaction(lambda db, pragma=pragma: db.execute(f"PRAGMA {pragma}").fetchall())
            assert rows == good
    finally:
        await store.aclose()
    assert schema(tmp_path / "old").keys() == schema(tmp_path / "new").keys()


def test_a_delivered_answer_points_at_no_message_any_more(tmp_path: Path) -> None:
    made(tmp_path / "old", 6)
    with closing(sqlite3.connect(tmp_path / "old", isolation_level=None)) as db:
        migrate(db, "old")
        assert db.execute("SELECT state, node FROM outbox").fetchall() == [("pending", 2), ("delivered", None)]
