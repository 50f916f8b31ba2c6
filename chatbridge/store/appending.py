"""What is said joins a conversation: a message below another one, or a person's question at the end. Inside a
transaction; knows rows and the message index, no trees and no rules of who may ask.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.store.database import storable
from chatbridge.store.message_index import note
from chatbridge.store.records import Conversation, Node
from chatbridge.store.rows import (
    SELECT_CONVERSATION,
    SELECT_NODE,
    check_node,
    get_conversation,
    insert_node,
    packed,
    read_conversations,
    read_node,
    read_nodes,
    start_conversation,
)
from chatbridge.types import Reply, Role


@dataclass(frozen=True, slots=True)
class Asked:
    """A person's message in its conversation, and what follows it there: nothing, unless it was recorded before."""

    conversation: Conversation
    node: Node
    after: Sequence[Node] = ()


def current_conversation(db: sqlite3.Connection, bot: str, channel: str) -> Conversation:
    """The current one of a bot in a channel; a new one if there is none."""
    rows = db.execute(f"{SELECT_CONVERSATION} WHERE bot = ? AND channel = ? AND current", (bot, channel))
    found = read_conversations(db, rows)
    return found[0] if found else start_conversation(db, bot, channel)


def children_of(db: sqlite3.Connection, conversation_id: int, node_id: int | None) -> list[Node]:
    """What follows a node, oldest first; None for the first messages."""
    rows = db.execute(
        f"{SELECT_NODE} WHERE conversation = ? AND parent IS ? AND removed IS NOT 1 ORDER BY id",
        (conversation_id, node_id),
    )
    return read_nodes(db, rows)


def find_said(db: sqlite3.Connection, conversation_id: int, service_id: str | None) -> Node | None:
    """The message of that id, if the conversation has it."""
    if service_id is None:
        return None
    seen = db.execute(f"{SELECT_NODE} WHERE conversation = ? AND service_id = ?", (conversation_id, service_id))
    return next(iter(read_nodes(db, seen)), None)


def append_node(
    db: sqlite3.Connection,
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
    """See `Store.append`."""
    if (seen := find_said(db, conversation_id, service_id)) is not None:
        return seen
    # Where the question was deleted while its answer was being written, nothing of the answer is kept either.
    removed = False
    if parent is not None:
        removed = check_node(db, conversation_id, parent) and role == "assistant"
    else:
        get_conversation(db, conversation_id)
    if removed:
        text, reply = "", None
    values = (role, storable(text), storable(name), trusted, *packed(reply), service_id, partial, author)
    node_id = _insert(db, conversation_id, parent, values, move=move and not removed, removed=removed)
    if service_id is not None and channel is not None:
        note(db, get_conversation(db, conversation_id).bot, channel, service_id, node_id)
    return read_node(db, node_id)


def _insert(
    db: sqlite3.Connection,
    conversation_id: int,
    parent: int | None,
    values: tuple[Any, ...],
    *,
    move: bool = True,
    removed: bool = False,
) -> int:
    now = time.time()
    node_id = insert_node(db, conversation_id, parent, now, values, removed=removed)
    if move:
        moved = (node_id, now, conversation_id)
        db.execute("UPDATE conversations SET head = ?, touched = ? WHERE id = ?", moved)
    return node_id


def ask(
    db: sqlite3.Connection,
    conversation: Conversation,
    text: str,
    *,
    name: str,
    author: str,
    service_id: str,
    channel: str,
) -> Asked:
    """See `Store.ask`."""
    if (seen := find_said(db, conversation.id, service_id)) is not None:
        return Asked(conversation, seen, children_of(db, conversation.id, seen.id))
    # What else `append_node` looks for was read just now.
    if conversation.head is not None:
        check_node(db, conversation.id, conversation.head)
    values = ("user", storable(text), storable(name), False, *packed(None), service_id, False, author)
    node_id = _insert(db, conversation.id, conversation.head, values)
    note(db, conversation.bot, channel, service_id, node_id)
    return Asked(conversation, read_node(db, node_id))
