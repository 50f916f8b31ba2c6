"""The tables, as a list of migrations; the database's `user_version` counts how many have been applied."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

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
    # What came in and what goes out. `message` and `part` are emptied once nobody needs them; the rows stay a while,
    # so that a message that a service delivers again is known.
    """
    CREATE TABLE inbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        bot TEXT NOT NULL,
        channel TEXT NOT NULL,
        service_id TEXT NOT NULL,
        message TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'dead', 'dropped')),
        attempts INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        live TEXT NOT NULL DEFAULT '[]',
        created REAL NOT NULL,
        UNIQUE (bot, channel, service_id)
    );
    CREATE INDEX inbox_open ON inbox (bot, state) WHERE state IN ('waiting', 'running', 'dead');
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        bot TEXT NOT NULL,
        channel TEXT NOT NULL,
        received INTEGER REFERENCES inbox (id) ON DELETE SET NULL,
        kind TEXT NOT NULL CHECK (kind IN ('send', 'edit', 'delete')),
        target TEXT NOT NULL DEFAULT '',
        part TEXT NOT NULL DEFAULT '',
        reply_to TEXT,
        language TEXT NOT NULL DEFAULT 'en',
        state TEXT NOT NULL DEFAULT 'pending'
            CHECK (state IN ('pending', 'attempting', 'delivered', 'failed', 'dropped')),
        doubtful INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        message_id TEXT NOT NULL DEFAULT '',
        created REAL NOT NULL
    );
    CREATE INDEX outbox_open ON outbox (bot, state) WHERE state IN ('pending', 'attempting', 'failed');
    CREATE INDEX outbox_by_received ON outbox (received);
    CREATE TABLE marks (
        bot TEXT NOT NULL,
        name TEXT NOT NULL,
        value INTEGER NOT NULL,
        PRIMARY KEY (bot, name)
    ) WITHOUT ROWID;
    """,
    # Which node each message of a chat is; what was deleted there; who may talk to a bot, and what it has cost.
    """
    ALTER TABLE nodes ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE outbox ADD COLUMN node INTEGER REFERENCES nodes (id);
    CREATE TABLE messages (
        bot TEXT NOT NULL,
        channel TEXT NOT NULL,
        message_id TEXT NOT NULL,
        node INTEGER NOT NULL REFERENCES nodes (id),
        PRIMARY KEY (bot, channel, message_id)
    ) WITHOUT ROWID;
    CREATE INDEX messages_by_node ON messages (bot, channel, node);
    CREATE TABLE people (
        bot TEXT NOT NULL,
        user TEXT NOT NULL,
        name TEXT NOT NULL,
        code TEXT NOT NULL,
        paired INTEGER NOT NULL DEFAULT 0,
        paired_by TEXT NOT NULL DEFAULT '',
        created REAL NOT NULL,
        PRIMARY KEY (bot, user)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX people_by_code ON people (bot, code);
    CREATE TABLE usage (
        bot TEXT NOT NULL,
        user TEXT NOT NULL,
        day TEXT NOT NULL,
        name TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        answers INTEGER NOT NULL,
        PRIMARY KEY (bot, user, day)
    ) WITHOUT ROWID;
    """,
    # Rows that could not be read, whole: `kept` is the row in JSON, with {"text": hex} or {"blob": hex} for bytes.
    """
    CREATE TABLE damaged (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        origin TEXT NOT NULL,
        reason TEXT NOT NULL,
        kept TEXT NOT NULL,
        mended INTEGER NOT NULL,
        created REAL NOT NULL
    );
    """,
    # Who has written a message, by the service's id: in a group its answer is theirs to change. "" where nobody knows.
    "ALTER TABLE nodes ADD COLUMN author TEXT NOT NULL DEFAULT '';",
    # What an answer said to itself; of older answers that is not known.
    """
    ALTER TABLE nodes ADD COLUMN thoughts TEXT;
    """,
    # An index for each statement. `parent` leads, since answers are looked for by what they answer; `leaving` is 1
    # while a conversation is being deleted; `touched` is when it was last used. What a delivered message showed is in
    # `messages`, so that a deleted node has to be looked for among open ones alone.
    """
    DROP INDEX nodes_by_parent;
    CREATE INDEX nodes_by_parent ON nodes (parent, conversation);
    CREATE INDEX nodes_by_conversation ON nodes (conversation);
    CREATE INDEX messages_of_node ON messages (node);
    ALTER TABLE conversations ADD COLUMN leaving INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE conversations ADD COLUMN touched REAL NOT NULL DEFAULT 0;
    CREATE INDEX conversations_by_bot ON conversations (bot);
    CREATE INDEX conversations_by_channel ON conversations (bot, channel);
    CREATE INDEX conversations_leaving ON conversations (leaving) WHERE leaving = 1;
    CREATE INDEX usage_by_day ON usage (bot, day);
    CREATE INDEX people_waiting ON people (bot, created) WHERE NOT paired;
    CREATE INDEX damaged_by_row ON damaged (origin, kept);
    UPDATE outbox SET node = NULL WHERE state IN ('delivered', 'dropped');
    """,
    # How many tokens a prompt could have when `trim` was chosen: with more room, more of the history fits again.
    "ALTER TABLE conversations ADD COLUMN trim_room INTEGER;",
    # The marks that an answer was written with, see `Reply.frame`; of older answers they are not known.
    "ALTER TABLE nodes ADD COLUMN frame TEXT;",
)

_VERSION_AT = 60
"""Where a database's header has its `user_version`, in four bytes: https://www.sqlite.org/fileformat.html"""


def refuse_newer(path: Path) -> None:
    """Look at the file's header alone, since opening a database may write to it. Raises: StoreError."""
    with suppress(OSError), path.open("rb") as file:
        header = file.read(_VERSION_AT + 4)
        if header.startswith(b"SQLite format 3\0") and len(header) == _VERSION_AT + 4:
            _check(int.from_bytes(header[_VERSION_AT:], "big"), str(path))


def outdated(connection: sqlite3.Connection, name: str) -> bool:
    """Whether there are migrations to do. Raises: StoreError for a database that a newer chatbridge has written."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    _check(version, name)
    return bool(version < len(MIGRATIONS))


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Bring the database up to date, all of it or, where the program ends in the middle, nothing. Raises: StoreError.

    Two programs may do so at once: the second one waits for the first, and finds nothing left to do. A connection on
    which it has failed is to be closed, which takes back what was done.
    """
    if not outdated(connection, name):
        return
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()  # again: others may have been faster
    _check(version, name)
    for script in MIGRATIONS[version:]:
        for statement in _statements(script):  # not `executescript`, which commits what is open
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _check(version: int, name: str) -> None:
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{name} was written by a newer chatbridge (format {version}, this one knows {len(MIGRATIONS)}): "
            f"update chatbridge, or name another file under `store:`"
        )
