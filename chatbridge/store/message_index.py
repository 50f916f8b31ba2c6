"""Which message of a chat is which node of a conversation. Knows no chat service: ids are theirs."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass

from chatbridge.store.damaged import UNREADABLE, typed
from chatbridge.store.database import Database


@dataclass(frozen=True, slots=True)
class MessageRef:
    """Where a message is kept. `key`: the conversation's own key; one channel may have many conversations."""

    key: str
    conversation: int
    node: int
    role: str


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that the conversation holds. `key`: the conversation's own.

    `partial`: it ended too early; `latest`: nothing was said after it.
    """

    key: str
    node: int
    text: str
    partial: bool
    latest: bool


class MessageIndex:
    """The messages of all bots of a store: what people wrote, and the messages that show an answer."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def note(self, bot: str, channel: str, message_id: str, node: int) -> None:
        """From now on that message is that node."""
        await self._store.transaction(lambda db: note(db, bot, channel, message_id, node))

    async def find(self, bot: str, channel: str, message_id: str) -> MessageRef | None:
        """The node of a message; None where it is not known, or was removed."""
        return await self._one(f"{_REF} AND message_id = ?", bot, channel, message_id)

    async def latest(self, bot: str, channel: str) -> MessageRef | None:
        """The node of a channel's latest message."""
        return await self._one(f"{_REF} ORDER BY node DESC LIMIT 1", bot, channel)

    async def kept_answer(self, bot: str, channel: str, message_id: str) -> KeptAnswer | None:
        """The answer to that message, if its conversation holds one: the program ended before it was delivered."""

        def work(db: sqlite3.Connection) -> KeptAnswer | None:
            row = db.execute(
                "SELECT conversations.channel, answer.id, answer.text, answer.partial, head = answer.id FROM messages "
                "JOIN nodes answer ON answer.parent = messages.node "
                "JOIN conversations ON conversations.id = answer.conversation AND current "
                "WHERE messages.bot = ? AND messages.channel = ? AND message_id = ? "
                "AND answer.role = 'assistant' AND NOT removed ORDER BY answer.id DESC LIMIT 1",
                (bot, channel, message_id),
            ).fetchone()
            # One that can't be read is asked for anew; whoever reads its conversation puts it aside.
            if row is None or not (isinstance(row[0], str) and isinstance(row[2], str)):
                return None
            return KeptAnswer(row[0], row[1], row[2], bool(row[3]), bool(row[4]))

        return await self._store.transaction(work)

    async def remove(self, bot: str, channel: str, message_id: str) -> bool:
        """Erase a message that was deleted in its chat, and the answers to it. False where it is not known.

        Later messages stay: what came after it now follows what came before it. May be called again, for an answer
        that was still being written the first time.
        """

        def work(db: sqlite3.Connection) -> bool:
            row = db.execute(
                "SELECT node, conversation, service_id FROM messages JOIN nodes ON nodes.id = node "
                "WHERE bot = ? AND channel = ? AND message_id = ?",
                (bot, channel, message_id),
            ).fetchone()
            if row is None:
                return False
            removed = {row[0]}
            if row[2] is not None:  # a person's message: also what it was before it was edited, and all answers
                versions = (
                    "SELECT id FROM nodes WHERE conversation = ? AND service_id = ? UNION ALL "
                    "SELECT id FROM nodes WHERE conversation = ? AND service_id >= ? AND service_id < ?"
                )
                values = (row[1], message_id, row[1], f"{message_id}~", f"{message_id}\x7f")  # the character after ~
                removed |= {id for (id,) in db.execute(versions, values)}
                for asked in list(removed):
                    answers = db.execute("SELECT id FROM nodes WHERE parent = ? AND role = 'assistant'", (asked,))
                    removed |= {id for (id,) in answers}
            db.executemany(
                "UPDATE nodes SET removed = 1, text = '', tokens = NULL, tail = NULL, vocabulary = NULL, "
                "thoughts = NULL, frame = NULL WHERE id = ?",
                [(id,) for id in removed],
            )
            return True

        return await self._store.transaction(work)

    async def _one(self, query: str, *values: str) -> MessageRef | None:
        def work(db: sqlite3.Connection) -> MessageRef | None:
            row = db.execute(query, values).fetchone()
            with suppress(*UNREADABLE):  # whoever reads the conversation or the message itself puts that aside
                return MessageRef(*typed(row, str, int, int, str)) if row else None
            return None

        return await self._store.transaction(work)


_REF = (
    "SELECT conversations.channel, conversations.id, nodes.id, role FROM messages JOIN nodes ON nodes.id = node "
    "JOIN conversations ON conversations.id = nodes.conversation "
    "WHERE messages.bot = ? AND messages.channel = ? AND NOT removed AND NOT leaving"
)


def note(db: sqlite3.Connection, bot: str, channel: str, message_id: str, node: int) -> None:
    """The same as `MessageIndex.note`, as part of a transaction."""
    db.execute(
        "INSERT INTO messages (bot, channel, message_id, node) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET node = excluded.node",
        (bot, channel, message_id, node),
    )
