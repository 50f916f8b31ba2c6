"""Conversations as trees of messages. Knows conversations and nodes; no model, no settings and no chat service."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

from chatbridge.errors import StoreError
from chatbridge.store.appending import Asked, append_node, ask, children_of, current_conversation
from chatbridge.store.database import Database, storable
from chatbridge.store.records import Conversation, Node
from chatbridge.store.rows import (
    SELECT_NODE,
    SELECT_TITLED,
    check_node,
    count_above,
    export_node,
    get_conversation,
    insert_node,
    packed,
    read_conversations,
    read_node,
    read_nodes,
    read_path,
    start_conversation,
)
from chatbridge.types import Reply, Role

EXPORT_VERSION = 1


class Store(Database):
    """Conversations in one SQLite file. `await Store.open(path)` makes one; close it with `aclose`."""

    # --- conversations -----------------------------------------------------------------------------------------

    async def conversation(self, bot: str, channel: str) -> Conversation:
        """The current conversation of a bot in a channel; a new one if there is none."""
        return await self.transaction(lambda db: current_conversation(db, bot, channel))

    async def start(self, bot: str, channel: str) -> Conversation:
        """Begin a new current conversation; the old one is kept."""
        return await self.transaction(lambda db: start_conversation(db, bot, channel))

    async def get(self, conversation_id: int) -> Conversation:
        """The conversation of that id. Raises StoreError."""
        return await self.transaction(lambda db: get_conversation(db, conversation_id))

    async def conversations(
        self, bot: str | None = None, channel: str | None = None, limit: int = 100
    ) -> list[Conversation]:
        """Conversations with their titles, newest first; of one bot or channel where given."""

        wanted = {"id > ?": 0, "bot = ?": bot, "channel = ?": channel}
        wanted = {condition: value for condition, value in wanted.items() if value is not None}

        def work(db: sqlite3.Connection) -> list[Conversation]:
            query = f"{SELECT_TITLED} WHERE {' AND '.join(wanted)} ORDER BY id DESC LIMIT ?"
            return read_conversations(db, db.execute(query, (*wanted.values(), limit)))

        return await self.transaction(work)

    async def make_current(self, conversation_id: int) -> Conversation:
        """Go on with an earlier conversation in its channel; it is returned with its title."""

        def work(db: sqlite3.Connection) -> Conversation:
            get_conversation(db, conversation_id)
            (found,) = read_conversations(db, db.execute(f"{SELECT_TITLED} WHERE id = ?", (conversation_id,)))
            db.execute(
                "UPDATE conversations SET current = 0 WHERE bot = ? AND channel = ? AND current",
                (found.bot, found.channel),
            )
            touched = (time.time(), conversation_id)
            db.execute("UPDATE conversations SET current = 1, touched = ? WHERE id = ?", touched)
            return found

        return await self.transaction(work)

    async def move(self, bot: str, moved: Callable[[str], str], *, begins: str = "") -> None:
        """Keep conversations under other keys from now on; where one is current there already, it stays so.

        `begins`: only those whose keys begin so. The ids of their messages are forgotten: where the chat goes on,
        others have them.
        """

        def work(db: sqlite3.Connection) -> None:
            there = "SELECT 1 FROM conversations WHERE bot = ? AND channel = ? AND current"
            for id, old, current in db.execute(
                "SELECT id, channel, current FROM conversations "
                "WHERE bot = ? AND channel >= ? AND channel < ? ORDER BY id",
                (bot, begins, f"{begins}\U0010ffff"),
            ).fetchall():
                if (new := moved(old)) != old:
                    current = current and db.execute(there, (bot, new)).fetchone() is None
                    db.execute("UPDATE conversations SET channel = ?, current = ? WHERE id = ?", (new, current, id))
                    db.execute("UPDATE nodes SET service_id = NULL WHERE conversation = ?", (id,))

        await self.transaction(work)

    async def set_head(self, conversation_id: int, node_id: int | None) -> None:
        """Move to another node of the tree; None is before the first message."""

        def work(db: sqlite3.Connection) -> None:
            if node_id is not None:
                check_node(db, conversation_id, node_id)
            touched = (node_id, time.time(), conversation_id)
            db.execute("UPDATE conversations SET head = ?, touched = ? WHERE id = ?", touched)

        await self.transaction(work)

    async def set_trim(self, conversation_id: int, node_id: int | None, room: int | None = None) -> None:
        """Remember at which node prompts begin from now on. `room`: how many tokens a prompt could have."""

        def work(db: sqlite3.Connection) -> None:
            if node_id is not None:
                check_node(db, conversation_id, node_id)
            values = (node_id, room, time.time(), conversation_id)
            db.execute("UPDATE conversations SET trim = ?, trim_room = ?, touched = ? WHERE id = ?", values)

        await self.transaction(work)

    async def set_overrides(self, conversation_id: int, overrides: Mapping[str, Any]) -> None:
        """Replace the settings that this conversation has for itself."""
        text = json.dumps(dict(overrides))

        def work(db: sqlite3.Connection) -> None:
            get_conversation(db, conversation_id)
            db.execute(
                "UPDATE conversations SET overrides = ?, touched = ? WHERE id = ?", (text, time.time(), conversation_id)
            )

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

        return await self.transaction(
            lambda db: append_node(
                db,
                conversation_id,
                role,
                text,
                parent=parent,
                name=name,
                trusted=trusted,
                reply=reply,
                service_id=service_id,
                channel=channel,
                partial=partial,
                move=move,
                author=author,
            )
        )

    async def ask(
        self,
        bot: str,
        key: str,
        text: str,
        *,
        name: str,
        author: str,
        service_id: str,
        channel: str,
        conversation: int | None = None,
    ) -> Asked:
        """Put a person's message at the end of the current conversation of a bot under `key`, or of the one given.

        Where that has it already, nothing changes. For the rest see `append`.
        """

        def work(db: sqlite3.Connection) -> Asked:
            found = current_conversation(db, bot, key) if conversation is None else get_conversation(db, conversation)
            return ask(db, found, text, name=name, author=author, service_id=service_id, channel=channel)

        return await self.transaction(work)

    async def update_reply(self, node_id: int, text: str, reply: Reply, partial: bool) -> None:
        """Put a longer answer in the place of an unfinished one; one that was deleted meanwhile stays so."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE nodes SET text = ?, tokens = ?, tail = ?, vocabulary = ?, thoughts = ?, frame = ?, "
                "partial = ? WHERE id = ? AND removed IS NOT 1",
                (storable(text), *packed(reply), partial, node_id),
            )

        await self.transaction(work)

    async def path(
        self,
        conversation_id: int,
        head: int | None = None,
        *,
        since: int | None = None,
        max_bytes: int = 1 << 62,
        limit: int = 1 << 62,
    ) -> list[Node]:
        """The messages from the first one to `head`, or to the conversation's own head, without removed ones.

        They begin later where `since` comes later, where so many come after that the texts have more than `max_bytes`
        bytes, or with the last but `limit`: what is left out costs nothing.
        """

        def work(db: sqlite3.Connection) -> list[Node]:
            end = head if head is not None else get_conversation(db, conversation_id).head
            return read_path(db, conversation_id, end, since=since, max_bytes=max_bytes, limit=limit)

        return await self.transaction(work)

    async def count_above(self, node_id: int) -> int:
        """How many messages come before one, without removed ones."""
        return await self.transaction(lambda db: count_above(db, node_id))

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
            if row is None or not (nodes := read_path(db, row[0], node_id)):
                raise StoreError(f"there is no message {node_id}")
            fresh, parent = start_conversation(db, row[1], channel), None
            for node in nodes:
                whose = author if node.role == "user" else ""
                said = (node.role, node.text, node.name, node.trusted, *packed(node.reply))
                parent = insert_node(db, fresh.id, parent, node.created, (*said, None, node.partial, whose))
            assert parent is not None
            db.execute("UPDATE conversations SET head = ? WHERE id = ?", (parent, fresh.id))
            return read_node(db, parent)

        return await self.transaction(work)

    async def node(self, node_id: int) -> Node:
        """The node of that id. Raises StoreError."""

        def work(db: sqlite3.Connection) -> Node:
            found = read_nodes(db, db.execute(f"{SELECT_NODE} WHERE id = ?", (node_id,)))
            if not found:
                raise StoreError(f"there is no message {node_id}")
            return found[0]

        return await self.transaction(work)

    async def children(self, conversation_id: int, node_id: int | None) -> list[Node]:
        """What follows a node, oldest first; None for the first messages."""
        return await self.transaction(lambda db: children_of(db, conversation_id, node_id))

    async def leaves(self, conversation_id: int) -> list[Node]:
        """The ends of all branches, oldest first."""
        return await self.transaction(
            lambda db: read_nodes(
                db,
                db.execute(
                    f"{SELECT_NODE} WHERE conversation = ? AND removed IS NOT 1 AND id NOT IN "
                    "(SELECT parent FROM nodes WHERE conversation = ? AND parent IS NOT NULL) ORDER BY id",
                    (conversation_id, conversation_id),
                ),
            )
        )

    # --- files -------------------------------------------------------------------------------------------------

    async def export(self, conversation_id: int) -> dict[str, Any]:
        """The whole conversation with all its branches, ready for JSON."""

        def work(db: sqlite3.Connection) -> dict[str, Any]:
            found = get_conversation(db, conversation_id)
            rows = db.execute(f"{SELECT_NODE} WHERE conversation = ? ORDER BY id", (conversation_id,))
            return {
                "chatbridge": EXPORT_VERSION,
                "head": found.head,
                "overrides": dict(found.overrides),
                "nodes": [export_node(node) for node in read_nodes(db, rows)],
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
            fresh = start_conversation(db, bot, channel)
            ids: dict[int | None, int | None] = {None: None}
            for node in saved.nodes:
                values = (node.role, storable(node.text), storable(node.name), False, *packed(None))
                row = (*values, None, node.partial, "")
                ids[node.id] = insert_node(db, fresh.id, ids[node.parent], node.created, row)
            head = ids[saved.head]
            db.execute("UPDATE conversations SET head = ?, overrides = ? WHERE id = ?", (head, overrides, fresh.id))
            return get_conversation(db, fresh.id)

        return await self.transaction(work)
