"""Conversations as trees of messages. Knows conversations and nodes; no model, no settings and no chat service."""

from __future__ import annotations

import json
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from chatbridge.errors import StoreError
from chatbridge.store.damaged import UNREADABLE, put_aside
from chatbridge.store.database import Database, storable
from chatbridge.store.message_index import note
from chatbridge.store.records import Conversation, Node
from chatbridge.store.tables import CONVERSATIONS, NODES
from chatbridge.types import Reply, Role

EXPORT_VERSION = 1


class Store(Database):
    """Conversations in one SQLite file. `await Store.open(path)` makes one; close it with `aclose`."""

    # --- conversations -----------------------------------------------------------------------------------------

    async def conversation(self, bot: str, channel: str) -> Conversation:
        """The current conversation of a bot in a channel; a new one if there is none."""

        def work(db: sqlite3.Connection) -> Conversation:
            rows = db.execute(f"{_CONVERSATION} WHERE bot = ? AND channel = ? AND current", (bot, channel))
            found = _conversations(db, rows)
            return found[0] if found else _start(db, bot, channel)

        return await self.transaction(work)

    async def start(self, bot: str, channel: str) -> Conversation:
        """Begin a new current conversation; the old one is kept."""
        return await self.transaction(lambda db: _start(db, bot, channel))

    async def get(self, conversation_id: int) -> Conversation:
        """The conversation of that id. Raises StoreError."""
        return await self.transaction(lambda db: _get(db, conversation_id))

    async def conversations(
        self, bot: str | None = None, channel: str | None = None, limit: int = 100
    ) -> list[Conversation]:
        """Conversations, newest first; of one bot or channel where given."""

        def work(db: sqlite3.Connection) -> list[Conversation]:
            rows = db.execute(
                f"{_CONVERSATION} WHERE bot = coalesce(?, bot) AND channel = coalesce(?, channel) "
                "ORDER BY id DESC LIMIT ?",
                (bot, channel, limit),
            )
            return _conversations(db, rows)

        return await self.transaction(work)

    async def make_current(self, conversation_id: int) -> Conversation:
        """Go on with an earlier conversation in its channel."""

        def work(db: sqlite3.Connection) -> Conversation:
            found = _get(db, conversation_id)
            db.execute(
                "UPDATE conversations SET current = 0 WHERE bot = ? AND channel = ? AND current",
                (found.bot, found.channel),
            )
            db.execute("UPDATE conversations SET current = 1 WHERE id = ?", (conversation_id,))
            return found

        return await self.transaction(work)

    async def move(self, bot: str, moved: Callable[[str], str]) -> None:
        """Keep conversations under other keys from now on; where one is current there already, it stays so.

        The ids of their messages are forgotten: where the chat goes on, others have them.
        """

        def work(db: sqlite3.Connection) -> None:
            there = "SELECT 1 FROM conversations WHERE bot = ? AND channel = ? AND current"
            for id, old, current in db.execute(
                "SELECT id, channel, current FROM conversations WHERE bot = ? ORDER BY id", (bot,)
            ).fetchall():
                if (new := moved(old)) != old:
                    current = current and db.execute(there, (bot, new)).fetchone() is None
                    db.execute("UPDATE conversations SET channel = ?, current = ? WHERE id = ?", (new, current, id))
                    db.execute("UPDATE nodes SET service_id = NULL WHERE conversation = ?", (id,))

        await self.transaction(work)

    async def set_head(self, conversation_id: int, node_id: int | None) -> None:
        """Move to another node of the tree; None is before the first message."""
        await self._set(conversation_id, "head", node_id)

    async def set_trim(self, conversation_id: int, node_id: int | None) -> None:
        """Remember at which node prompts begin from now on."""
        await self._set(conversation_id, "trim", node_id)

    async def set_overrides(self, conversation_id: int, overrides: Mapping[str, Any]) -> None:
        """Replace the settings that this conversation has for itself."""
        text = json.dumps(dict(overrides), ensure_ascii=False)

        def work(db: sqlite3.Connection) -> None:
            _get(db, conversation_id)
            db.execute("UPDATE conversations SET overrides = ? WHERE id = ?", (text, conversation_id))

        await self.transaction(work)

    # --- nodes -------------------------------------------------------------------------------------------------

    async def append(
        self,
        conversation_id: int,
        role: Role,
        text: str,
        *,
        parent: int | None,
        name: str = "",
        trusted: bool = False,
        reply: Reply | None = None,
        service_id: str | None = None,
        channel: str | None = None,
        partial: bool = False,
        move: bool = True,
        author: str = "",
    ) -> Node:
        """Add a message below `parent` and, unless `move` is false, make it the head.

        A `service_id` that this conversation has seen before adds nothing: the node it has is returned. `channel` is
        the chat in which the message of that id stands; `MessageIndex` finds the node by them.
        """

        def work(db: sqlite3.Connection) -> Node:
            if service_id is not None:
                seen = db.execute(f"{_NODE} WHERE conversation = ? AND service_id = ?", (conversation_id, service_id))
                if nodes := _nodes(db, seen):
                    return nodes[0]
            if parent is not None:
                _belongs(db, conversation_id, parent)
            else:
                _get(db, conversation_id)
            values = (role, storable(text), storable(name), trusted, *_packed(reply), service_id, partial, author)
            node_id = _insert(db, conversation_id, parent, time.time(), values)
            if move:
                db.execute("UPDATE conversations SET head = ? WHERE id = ?", (node_id, conversation_id))
            if service_id is not None and channel is not None:
                note(db, _get(db, conversation_id).bot, channel, service_id, node_id)
            return _node(db.execute(f"{_NODE} WHERE id = ?", (node_id,)).fetchone())

        return await self.transaction(work)

    async def update_reply(self, node_id: int, text: str, reply: Reply, partial: bool) -> None:
        """Put a longer answer in the place of an unfinished one."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE nodes SET text = ?, tokens = ?, tail = ?, vocabulary = ?, thoughts = ?, partial = ? "
                "WHERE id = ?",
                (storable(text), *_packed(reply), partial, node_id),
            )

        await self.transaction(work)

    async def path(self, conversation_id: int, head: int | None = None) -> list[Node]:
        """The messages from the first one to `head`, or to the conversation's own head, without removed ones."""

        def work(db: sqlite3.Connection) -> list[Node]:
            return _path(db, conversation_id, head if head is not None else _get(db, conversation_id).head)

        return await self.transaction(work)

    async def copy(self, node_id: int, channel: str, author: str) -> Node:
        """Begin a conversation under another key with all that was said up to a node; returns that node's copy.

        `author`: whose its messages are there. Raises StoreError.
        """

        def work(db: sqlite3.Connection) -> Node:
            row = db.execute(
                "SELECT conversation, bot FROM nodes JOIN conversations ON conversations.id = conversation "
                "WHERE nodes.id = ?",
                (node_id,),
            ).fetchone()
            if row is None or not (nodes := _path(db, row[0], node_id)):
                raise StoreError(f"there is no message {node_id}")
            fresh, parent = _start(db, row[1], channel), None
            for node in nodes:
                whose = author if node.role == "user" else ""
                values = (
                    node.role,
                    node.text,
                    node.name,
                    node.trusted,
                    *_packed(node.reply),
                    None,
                    node.partial,
                    whose,
                )
                parent = _insert(db, fresh.id, parent, node.created, values)
            db.execute("UPDATE conversations SET head = ? WHERE id = ?", (parent, fresh.id))
            return _node(db.execute(f"{_NODE} WHERE id = ?", (parent,)).fetchone())

        return await self.transaction(work)

    async def node(self, node_id: int) -> Node:
        """The node of that id. Raises StoreError."""

        def work(db: sqlite3.Connection) -> Node:
            found = _nodes(db, db.execute(f"{_NODE} WHERE id = ?", (node_id,)))
            if not found:
                raise StoreError(f"there is no message {node_id}")
            return found[0]

        return await self.transaction(work)

    async def children(self, conversation_id: int, node_id: int | None) -> list[Node]:
        """What follows a node, oldest first; None for the first messages."""
        return await self.transaction(
            lambda db: _nodes(
                db,
                db.execute(
                    f"{_NODE} WHERE conversation = ? AND parent IS ? AND removed IS NOT 1 ORDER BY id",
                    (conversation_id, node_id),
                ),
            )
        )

    async def leaves(self, conversation_id: int) -> list[Node]:
        """The ends of all branches, oldest first."""
        return await self.transaction(
            lambda db: _nodes(
                db,
                db.execute(
                    f"{_NODE} WHERE conversation = ? AND removed IS NOT 1 AND id NOT IN "
                    "(SELECT parent FROM nodes WHERE conversation = ? AND parent IS NOT NULL) ORDER BY id",
                    (conversation_id, conversation_id),
                ),
            )
        )

    # --- files -------------------------------------------------------------------------------------------------

    async def export(self, conversation_id: int) -> dict[str, Any]:
        """The whole conversation with all its branches, ready for JSON."""

        def work(db: sqlite3.Connection) -> dict[str, Any]:
            found = _get(db, conversation_id)
            rows = db.execute(f"{_NODE} WHERE conversation = ? ORDER BY id", (conversation_id,))
            return {
                "chatbridge": EXPORT_VERSION,
                "head": found.head,
                "overrides": dict(found.overrides),
                "nodes": [_exported(node) for node in _nodes(db, rows)],
            }

        return await self.transaction(work)

    async def restore(self, bot: str, channel: str, exported: Any) -> Conversation:
        """Make an exported conversation the current one of a channel. Raises StoreError for anything else.

        Only texts are taken from it, see `saved`; its overrides are stored as they are: look them over before.
        """
        from chatbridge.store.saved import read_saved

        saved = read_saved(exported)
        overrides = json.dumps(saved.overrides)

        def work(db: sqlite3.Connection) -> Conversation:
            fresh = _start(db, bot, channel)
            ids: dict[int | None, int | None] = {None: None}
            for node in saved.nodes:
                values = (node.role, storable(node.text), storable(node.name), False, *_packed(None))
                row = (*values, None, node.partial, "")
                ids[node.id] = _insert(db, fresh.id, ids[node.parent], node.created, row)
            head = ids[saved.head]
            db.execute("UPDATE conversations SET head = ?, overrides = ? WHERE id = ?", (head, overrides, fresh.id))
            return _get(db, fresh.id)

        return await self.transaction(work)

    async def _set(self, conversation_id: int, column: str, node_id: int | None) -> None:
        def work(db: sqlite3.Connection) -> None:
            if node_id is not None:
                _belongs(db, conversation_id, node_id)
            db.execute(f"UPDATE conversations SET {column} = ? WHERE id = ?", (node_id, conversation_id))

        await self.transaction(work)


_CONVERSATION = (
    "SELECT id, bot, channel, head, trim, overrides, created, "
    "coalesce((SELECT text FROM nodes WHERE conversation = conversations.id AND removed IS NOT 1 "
    "ORDER BY id LIMIT 1), '') "
    "FROM conversations"
)
_NODE = (
    "SELECT nodes.id, conversation, parent, role, text, name, trusted, tokens, tail, vocabulary, thoughts, "
    "service_id, created, partial, author FROM nodes"
)


def _conversations(db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> list[Conversation]:
    """Those in the rows; one that can't be read is mended, and what it was is put aside."""

    def read(row: tuple[Any, ...]) -> Conversation:
        try:
            return _conversation(row)
        except UNREADABLE as error:
            put_aside(db, CONVERSATIONS, row[:1], str(error))
            return _conversation(db.execute(f"{_CONVERSATION} WHERE id = ?", row[:1]).fetchone())

    return [read(row) for row in list(rows)]


def _nodes(db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> list[Node]:
    """The same for messages."""

    def read(row: tuple[Any, ...]) -> Node:
        try:
            return _node(row)
        except UNREADABLE as error:
            put_aside(db, NODES, row[:1], str(error))
            return _node(db.execute(f"{_NODE} WHERE id = ?", row[:1]).fetchone())

    return [read(row) for row in list(rows)]


def _conversation(row: tuple[Any, ...]) -> Conversation:
    id_, bot, channel, head, trim, overrides, created, title = row
    values = (bot, channel, head, trim, created)
    wanted = (str, str, int | None, int | None, int | float)
    if not all(isinstance(value, kind) for value, kind in zip(values, wanted, strict=True)):
        raise TypeError("it has a column of another type")
    if not isinstance(own := json.loads(overrides), dict):
        raise TypeError("`overrides` is no JSON object")
    # How it begins is another row's matter.
    return Conversation(id_, bot, channel, head, trim, own, created, title if isinstance(title, str) else "")


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
        and (tokens is None or (type(tokens) is bytes and type(tail) is str and type(vocabulary) is str))
    ):
        raise TypeError("it has a column of another type")
    reply = None
    if tokens is not None:
        reply = Reply(text, tuple(array("I", tokens)), tail, vocabulary, thoughts)
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


def _path(db: sqlite3.Connection, conversation_id: int, end: int | None) -> list[Node]:
    rows = db.execute(
        "WITH RECURSIVE up (id, depth) AS (SELECT ?, 0 UNION ALL SELECT nodes.parent, depth + 1 "
        # What follows a message has a greater id: so not even damaged rows make a path without an end.
        f"FROM nodes JOIN up ON nodes.id = up.id WHERE nodes.parent < nodes.id) {_NODE} JOIN up USING (id) "
        "WHERE (conversation = ? OR typeof(conversation) != 'integer') AND removed IS NOT 1 ORDER BY depth DESC",
        (end, conversation_id),
    )
    return _nodes(db, rows)


def _packed(reply: Reply | None) -> tuple[bytes | None, str | None, str | None, str | None]:
    if reply is None:
        return None, None, None, None
    thoughts = None if reply.thoughts is None else storable(reply.thoughts)
    return array("I", reply.tokens).tobytes(), storable(reply.tail), reply.vocabulary, thoughts


def _insert(
    db: sqlite3.Connection, conversation_id: int, parent: int | None, created: float, values: tuple[Any, ...]
) -> int:
    cursor = db.execute(
        "INSERT INTO nodes (conversation, parent, created, role, text, name, trusted, tokens, tail, vocabulary, "
        "thoughts, service_id, partial, author) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (conversation_id, parent, created, *values),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _start(db: sqlite3.Connection, bot: str, channel: str) -> Conversation:
    db.execute("UPDATE conversations SET current = 0 WHERE bot = ? AND channel = ? AND current", (bot, channel))
    cursor = db.execute(
        "INSERT INTO conversations (bot, channel, created) VALUES (?, ?, ?)", (bot, channel, time.time())
    )
    assert cursor.lastrowid is not None
    return _get(db, cursor.lastrowid)


def _get(db: sqlite3.Connection, conversation_id: int) -> Conversation:
    found = _conversations(db, db.execute(f"{_CONVERSATION} WHERE id = ?", (conversation_id,)))
    if not found:
        raise StoreError(f"there is no conversation {conversation_id}")
    return found[0]


def _belongs(db: sqlite3.Connection, conversation_id: int, node_id: int) -> None:
    row = db.execute("SELECT 1 FROM nodes WHERE id = ? AND conversation = ?", (node_id, conversation_id)).fetchone()
    if row is None:
        raise StoreError(f"conversation {conversation_id} has no message {node_id}")


def _exported(node: Node) -> dict[str, Any]:
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
