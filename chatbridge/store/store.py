"""Conversations as trees of messages. Knows conversations and nodes; no model, no settings and no chat service."""

from __future__ import annotations

import json
import sqlite3
import time
from array import array
from collections.abc import Callable, Mapping
from typing import Any

from chatbridge.errors import StoreError
from chatbridge.store.database import Database, storable
from chatbridge.store.message_index import note
from chatbridge.store.records import Conversation, Node
from chatbridge.types import Reply, Role

EXPORT_VERSION = 1


class Store(Database):
    """Conversations in one SQLite file. `await Store.open(path)` makes one; close it with `aclose`."""

    # --- conversations -----------------------------------------------------------------------------------------

    async def conversation(self, bot: str, channel: str) -> Conversation:
        """The current conversation of a bot in a channel; a new one if there is none."""

        def work(db: sqlite3.Connection) -> Conversation:
            row = db.execute(f"{_CONVERSATION} WHERE bot = ? AND channel = ? AND current", (bot, channel)).fetchone()
            return _conversation(row) if row else _start(db, bot, channel)

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
            return [_conversation(row) for row in rows]

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
    ) -> Node:
        """Add a message below `parent` and, unless `move` is false, make it the head.

        A `service_id` that this conversation has seen before adds nothing: the node it has is returned. `channel` is
        the chat in which the message of that id stands; `MessageIndex` finds the node by them.
        """

        def work(db: sqlite3.Connection) -> Node:
            if service_id is not None:
                row = db.execute(
                    f"{_NODE} WHERE conversation = ? AND service_id = ?", (conversation_id, service_id)
                ).fetchone()
                if row:
                    return _node(row)
            if parent is not None:
                _belongs(db, conversation_id, parent)
            else:
                _get(db, conversation_id)
            values = (role, storable(text), storable(name), trusted, *_packed(reply), service_id, partial)
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
            end = head if head is not None else _get(db, conversation_id).head
            rows = db.execute(
                "WITH RECURSIVE up (id, depth) AS (SELECT ?, 0 UNION ALL SELECT nodes.parent, depth + 1 "
                f"FROM nodes JOIN up ON nodes.id = up.id WHERE nodes.parent IS NOT NULL) {_NODE} JOIN up USING (id) "
                "WHERE conversation = ? AND NOT removed ORDER BY depth DESC",
                (end, conversation_id),
            )
            return [_node(row) for row in rows]

        return await self.transaction(work)

    async def node(self, node_id: int) -> Node:
        """The node of that id. Raises StoreError."""

        def work(db: sqlite3.Connection) -> Node:
            row = db.execute(f"{_NODE} WHERE id = ?", (node_id,)).fetchone()
            if row is None:
                raise StoreError(f"there is no message {node_id}")
            return _node(row)

        return await self.transaction(work)

    async def children(self, conversation_id: int, node_id: int | None) -> list[Node]:
        """What follows a node, oldest first; None for the first messages."""
        return await self.transaction(
            lambda db: [
                _node(row)
                for row in db.execute(
                    f"{_NODE} WHERE conversation = ? AND parent IS ? AND NOT removed ORDER BY id",
                    (conversation_id, node_id),
                )
            ]
        )

    async def leaves(self, conversation_id: int) -> list[Node]:
        """The ends of all branches, oldest first."""
        return await self.transaction(
            lambda db: [
                _node(row)
                for row in db.execute(
                    f"{_NODE} WHERE conversation = ? AND NOT removed AND id NOT IN "
                    "(SELECT parent FROM nodes WHERE conversation = ? AND parent IS NOT NULL) ORDER BY id",
                    (conversation_id, conversation_id),
                )
            ]
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
                "nodes": [_exported(_node(row)) for row in rows],
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
                row = (*values, None, node.partial)
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
    "coalesce((SELECT text FROM nodes WHERE conversation = conversations.id AND NOT removed ORDER BY id LIMIT 1), '') "
    "FROM conversations"
)
_NODE = (
    "SELECT nodes.id, conversation, parent, role, text, name, trusted, tokens, tail, vocabulary, thoughts, "
    "service_id, created, partial FROM nodes"
)


def _conversation(row: tuple[Any, ...]) -> Conversation:
    id_, bot, channel, head, trim, overrides, created, title = row
    return Conversation(id_, bot, channel, head, trim, json.loads(overrides), created, title)


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
    ) = row
    reply = None
    if tokens is not None:
        reply = Reply(text, tuple(array("I", tokens)), tail, vocabulary, thoughts)
    return Node(id_, conversation, parent, role, text, name, bool(trusted), reply, service_id, created, bool(partial))


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
        "thoughts, service_id, partial) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
    row = db.execute(f"{_CONVERSATION} WHERE id = ?", (conversation_id,)).fetchone()
    if row is None:
        raise StoreError(f"there is no conversation {conversation_id}")
    return _conversation(row)


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
