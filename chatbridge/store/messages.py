"""Which message of a chat is which node of a conversation. Knows no chat service: ids are theirs."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from chatbridge.store.database import Database


@dataclass(frozen=True, slots=True)
class Noted:
    """Where a message is kept. `place`: the conversation's own key, which a channel may have many of."""

    place: str
    conversation: int
    node: int
    role: str


class Messages:
    """The messages of all bots of a store: what people wrote, and the messages that show an answer."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def note(self, bot: str, channel: str, message_id: str, node: int) -> None:
        """From now on that message is that node."""
        await self._store.transaction(lambda db: note(db, bot, channel, message_id, node))

    async def find(self, bot: str, channel: str, message_id: str) -> Noted | None:
        """The node of a message; None for one that was never noted, or is removed."""
        return await self._one(f"{_NOTED} AND message_id = ?", bot, channel, message_id)

    async def latest(self, bot: str, channel: str) -> Noted | None:
        """The node of a channel's latest message."""
        return await self._one(f"{_NOTED} ORDER BY node DESC LIMIT 1", bot, channel)

    async def remove(self, bot: str, channel: str, message_id: str) -> bool:
        """Take a message that was deleted in its chat out of the history, words and all, with the answers to it.

        False where it is not known. Other messages stay: what came after it now follows what came before it. May be
        called again, for an answer that was still being written the first time.
        """

        def work(db: sqlite3.Connection) -> bool:
            row = db.execute(
                "SELECT node, conversation, service_id FROM messages JOIN nodes ON nodes.id = node "
                "WHERE bot = ? AND channel = ? AND message_id = ?",
                (bot, channel, message_id),
            ).fetchone()
            if row is None:
                return False
            gone = {row[0]}
            if row[2] is not None:  # a person's message: also what it was before it was edited, and all answers
                of_it = "conversation = ? AND (service_id = ? OR substr(service_id, 1, ?) = ?)"
                values = (row[1], message_id, len(message_id) + 1, f"{message_id}~")
                gone |= {id for (id,) in db.execute(f"SELECT id FROM nodes WHERE {of_it}", values)}
                for asked in list(gone):
                    answers = db.execute("SELECT id FROM nodes WHERE parent = ? AND role = 'assistant'", (asked,))
                    gone |= {id for (id,) in answers}
            db.executemany(
                "UPDATE nodes SET removed = 1, text = '', tokens = NULL, tail = NULL, vocabulary = NULL WHERE id = ?",
                [(id,) for id in gone],
            )
            return True

        return await self._store.transaction(work)

    async def _one(self, query: str, *values: str) -> Noted | None:
        def work(db: sqlite3.Connection) -> Noted | None:
            row = db.execute(query, values).fetchone()
            return Noted(*row) if row else None

        return await self._store.transaction(work)


_NOTED = (
    "SELECT conversations.channel, conversations.id, nodes.id, role FROM messages JOIN nodes ON nodes.id = node "
    "JOIN conversations ON conversations.id = nodes.conversation "
    "WHERE messages.bot = ? AND messages.channel = ? AND NOT removed"
)


def note(db: sqlite3.Connection, bot: str, channel: str, message_id: str, node: int) -> None:
    """The same as `Messages.note`, as part of a transaction."""
    db.execute(
        "INSERT INTO messages (bot, channel, message_id, node) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET node = excluded.node",
        (bot, channel, message_id, node),
    )
