"""Conversations and messages as rows of the database, read and written inside a transaction.

Knows the columns, and mends a row that can't be read; knows no trees and no rules of when something is written.
"""

from __future__ import annotations

import json
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from chatbridge.errors import StoreError
from chatbridge.store.damaged import UNREADABLE, put_aside
from chatbridge.store.database import storable
from chatbridge.store.records import Conversation, Node
from chatbridge.store.tables import CONVERSATIONS, NODES, Table
from chatbridge.types import Reply

T = TypeVar("T")

SELECT_CONVERSATION = "SELECT id, bot, channel, head, trim, trim_room, overrides, created, '' FROM conversations"
SELECT_TITLED = SELECT_CONVERSATION.replace(
    "''",
    "coalesce((SELECT text FROM nodes WHERE conversation = conversations.id AND removed IS NOT 1 "
    "ORDER BY id LIMIT 1), '')",
)
"""With how it begins, for lists of them."""
SELECT_NODE = (
    "SELECT nodes.id, conversation, parent, role, text, name, trusted, tokens, tail, vocabulary, thoughts, frame, "
    "service_id, created, partial, author FROM nodes"
)


def read_conversations(db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> list[Conversation]:
    """Those in the rows; one that can't be read is mended, and what it was is put aside."""

    return [_mended(db, row, _conversation, CONVERSATIONS, SELECT_TITLED) for row in list(rows)]


def read_nodes(db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> list[Node]:
    """The same for messages."""

    return [_mended(db, row, _node, NODES, SELECT_NODE) for row in list(rows)]


def _mended(
    db: sqlite3.Connection, row: tuple[Any, ...], read: Callable[[tuple[Any, ...]], T], table: Table, select: str
) -> T:
    try:
        return read(row)
    except UNREADABLE as error:
        put_aside(db, table, row[:1], str(error))
        return read(db.execute(f"{select} WHERE id = ?", row[:1]).fetchone())


def read_node(db: sqlite3.Connection, node_id: int) -> Node:
    """One that was written just now."""
    return _node(db.execute(f"{SELECT_NODE} WHERE id = ?", (node_id,)).fetchone())


def _conversation(row: tuple[Any, ...]) -> Conversation:
    id_, bot, channel, head, trim, trim_room, overrides, created, title = row
    values = (bot, channel, head, trim, trim_room, created)
    wanted = (str, str, int | None, int | None, int | None, int | float)
    if not all(isinstance(value, kind) for value, kind in zip(values, wanted, strict=True)):
        raise TypeError("it has a column of another type")
    if not isinstance(own := json.loads(overrides), dict):
        raise TypeError("`overrides` is no JSON object")
    # How it begins is another row's matter.
    title = title if isinstance(title, str) else ""
    return Conversation(id_, bot, channel, head, trim, own, created, title, trim_room)


def _node(row: tuple[Any, ...]) -> Node:
    (
        id_,
        conversation,
        parent,
        role,
        text,
        name,
        trusted,
        tokens,
        tail,
        vocabulary,
        thoughts,
        frame,
        service_id,
        created,
        partial,
        author,
    ) = row
    # Spelled out, since a prompt may hold thousands of these.
    if not (
        type(text) is str
        and type(name) is str
        and role in ("user", "assistant", "system")
        and type(conversation) is int
        and (parent is None or type(parent) is int)
        and (service_id is None or type(service_id) is str)
        and type(created) is float
        and type(trusted) is int
        and type(partial) is int
        and type(author) is str
        and (thoughts is None or type(thoughts) is str)
        and (frame is None or type(frame) is str)
        and (tokens is None or (type(tokens) is bytes and type(tail) is str and type(vocabulary) is str))
    ):
        raise TypeError("it has a column of another type")
    reply = None
    if tokens is not None:
        reply = Reply(text, tuple(array("I", tokens)), tail, vocabulary, thoughts, frame)
    return Node(
        id_,
        conversation,
        parent,
        role,
        text,
        name,
        bool(trusted),
        reply,
        service_id,
        created,
        bool(partial),
        author,
    )


def read_path(
    db: sqlite3.Connection,
    conversation_id: int,
    end: int | None,
    *,
    since: int | None = None,
    max_bytes: int = 1 << 62,
    limit: int = 1 << 62,
) -> list[Node]:
    """The messages up to `end`, oldest first, without removed ones.

    They begin with the first one of all, with `since`, with the one at which their texts have more than `max_bytes`
    bytes, or with the last but `limit`, whichever comes latest.
    """
    values = {"end": end, "conversation": conversation_id, "since": since, "max_bytes": max_bytes, "limit": limit}
    return read_nodes(db, db.execute(_PATH, values))


_PATH = f"""
    WITH RECURSIVE up (id, above, depth, size) AS (
        SELECT id, parent, removed IS NOT 1, coalesce(length(CAST(text AS BLOB)), 0) FROM nodes WHERE id = :end
        UNION ALL
        SELECT nodes.id, nodes.parent, depth + (removed IS NOT 1), size + coalesce(length(CAST(text AS BLOB)), 0)
        FROM up JOIN nodes ON nodes.id = up.above
        -- What follows a message has a greater id: so not even damaged rows make a path without an end.
        WHERE up.above < up.id AND up.id IS NOT :since AND size <= :max_bytes AND depth < :limit
    )
    {SELECT_NODE} JOIN up USING (id)
    WHERE (conversation = :conversation OR typeof(conversation) != 'integer') AND removed IS NOT 1
    ORDER BY depth DESC
"""


def count_above(db: sqlite3.Connection, node_id: int) -> int:
    """How many messages come before one, without removed ones."""
    (count,) = db.execute(_COUNT_ABOVE, (node_id,)).fetchone()
    return int(count)


_COUNT_ABOVE = """
    WITH RECURSIVE up (id, above, there) AS (
        SELECT id, parent, 0 FROM nodes WHERE id = ?
        UNION ALL
        SELECT nodes.id, nodes.parent, nodes.removed IS NOT 1 FROM up JOIN nodes ON nodes.id = up.above
        WHERE up.above < up.id
    )
    SELECT coalesce(sum(there), 0) FROM up
"""


def packed(reply: Reply | None) -> tuple[bytes | None, str | None, str | None, str | None, str | None]:
    """What is kept of an answer's tokens, in the order of the columns."""
    if reply is None:
        return None, None, None, None, None
    thoughts = None if reply.thoughts is None else storable(reply.thoughts)
    frame = None if reply.frame is None else storable(reply.frame)
    return array("I", reply.tokens).tobytes(), storable(reply.tail), reply.vocabulary, thoughts, frame


def insert_node(
    db: sqlite3.Connection,
    conversation_id: int,
    parent: int | None,
    created: float,
    values: tuple[Any, ...],
    *,
    removed: bool = False,
) -> int:
    """A new message's id. `values`: from `role` on, in the order of the columns."""
    cursor = db.execute(
        "INSERT INTO nodes (conversation, parent, created, role, text, name, trusted, tokens, tail, vocabulary, "
        "thoughts, frame, service_id, partial, author, removed) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (conversation_id, parent, created, *values, removed),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def start_conversation(db: sqlite3.Connection, bot: str, channel: str) -> Conversation:
    """A new one, which is the current one of its channel from now on."""
    db.execute("UPDATE conversations SET current = 0 WHERE bot = ? AND channel = ? AND current", (bot, channel))
    now = time.time()
    cursor = db.execute(
        "INSERT INTO conversations (bot, channel, created, touched) VALUES (?, ?, ?, ?)", (bot, channel, now, now)
    )
    assert cursor.lastrowid is not None
    return get_conversation(db, cursor.lastrowid)


def get_conversation(db: sqlite3.Connection, conversation_id: int) -> Conversation:
    """Raises: StoreError."""
    found = read_conversations(db, db.execute(f"{SELECT_CONVERSATION} WHERE id = ?", (conversation_id,)))
    if not found:
        raise StoreError(f"there is no conversation {conversation_id}")
    return found[0]


def check_node(db: sqlite3.Connection, conversation_id: int, node_id: int) -> bool:
    """Whether a message was removed. Raises: StoreError for one of another conversation."""
    row = db.execute(
        "SELECT removed FROM nodes WHERE id = ? AND conversation = ?", (node_id, conversation_id)
    ).fetchone()
    if row is None:
        raise StoreError(f"conversation {conversation_id} has no message {node_id}")
    return bool(row[0])


def export_node(node: Node) -> dict[str, Any]:
    """A message as `/save` writes it."""
    reply = node.reply
    return {
        "id": node.id,
        "parent": node.parent,
        "role": node.role,
        "text": node.text,
        "name": node.name,
        "trusted": node.trusted,
        "created": node.created,
        "partial": node.partial,
        "reply": reply and {"tokens": list(reply.tokens), "tail": reply.tail, "vocabulary": reply.vocabulary},
    }
