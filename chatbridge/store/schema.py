"""The tables, as a list of migrations; the database's `user_version` counts how many have been applied."""

from __future__ import annotations

import sqlite3

from chatbridge.errors import StoreError

MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        bot TEXT NOT NULL,
        channel TEXT NOT NULL,
        current INTEGER NOT NULL DEFAULT 1,
        head INTEGER REFERENCES nodes (id),
        trim INTEGER REFERENCES nodes (id),
        overrides TEXT NOT NULL DEFAULT '{}',
        created REAL NOT NULL
    );
    CREATE UNIQUE INDEX one_current ON conversations (bot, channel) WHERE current;
    CREATE TABLE nodes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations (id),
        parent INTEGER REFERENCES nodes (id),
        role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
        text TEXT NOT NULL,
        name TEXT NOT NULL DEFAULT '',
        trusted INTEGER NOT NULL DEFAULT 0,
        tokens BLOB,
        tail TEXT,
        vocabulary TEXT,
        service_id TEXT,
        created REAL NOT NULL,
        partial INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX nodes_by_parent ON nodes (conversation, parent);
    CREATE UNIQUE INDEX nodes_by_service_id ON nodes (conversation, service_id) WHERE service_id IS NOT NULL;
    """,
)


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Bring the database up to date. Raises StoreError for one that a newer chatbridge has written."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{name} was written by a newer chatbridge (format {version}, this one knows {len(MIGRATIONS)}): "
            f"update chatbridge, or name another file under `store:`"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        # executescript commits what it is given, so the version rides in the same transaction as the tables.
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
