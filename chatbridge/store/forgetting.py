"""Deletes all that somebody said, or all that was said in a channel, wherever the store has it.

For a program that has the store for itself: one that runs keeps things in memory, and would write them back. Works in
many small transactions; one that is interrupted goes on when it is called again: what others are known by goes last.
Knows no bot and no settings.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from chatbridge.store.database import Database
from chatbridge.store.tables import INBOX_OPEN, OUTBOX_OPEN
from chatbridge.store.upkeep import delete_conversation, forget_nodes, names_of, take_out_of_sight

RANGE = 2_000
"""Rows, by their ids, that one transaction looks at."""

CHUNK = 100
"""Messages that one transaction empties."""

_SIDE = "/aside/"
"""What stands in a conversation's key before the name of a side conversation: such a name is no person."""


@dataclass(slots=True)
class Forgotten:
    """What was deleted: whole conversations with their messages; messages and answers in conversations with others;
    quotes of them in what others said; rows of the boxes; days of usage; pairings; rows that could not be read.

    `shared`: conversations with others that are left. `nameless`: messages under the same name that an earlier version
    kept without the id of who wrote them; they are left. `emptied`: nothing of all that is left in the files either.
    """

    conversations: int = 0
    messages: int = 0
    blanked: int = 0
    quotes: int = 0
    box_rows: int = 0
    usage_days: int = 0
    pairings: int = 0
    damaged_rows: int = 0
    shared: int = 0
    nameless: int = 0
    emptied: bool = True


@dataclass(slots=True)
class _Said:
    """What a person has said: nodes, their conversations, and by what copies and quotes of them are known."""

    nodes: set[int] = field(default_factory=set)
    copies: set[int] = field(default_factory=set)
    conversations: set[int] = field(default_factory=set)
    shared: set[int] = field(default_factory=set)
    texts: dict[float, set[str]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def add(self, id: int, conversation: int, created: float, text: str, name: str) -> None:
        self.nodes.add(id)
        self.conversations.add(conversation)
        self.texts.setdefault(created, set()).add(text)
        self.names |= {name} - {""}


async def forget(store: Database, id: str) -> Forgotten:
    """Forget the person, and the channel, of that id; a chat service may have both. Raises: StoreError."""
    return await _Forgetting(store, id).all()


class _Forgetting:
    def __init__(self, store: Database, id: str) -> None:
        self._store, self._id, self._done, self._said = store, id, Forgotten(), _Said()

    async def all(self) -> Forgotten:
        store, done, said = self._store, self._done, self._said
        leaving = set(await self._channel())
        await self._nodes(leaving)
        leaving |= said.conversations - said.shared
        await self._inbox()
        for conversation in sorted(leaving):  # from now on they are found by that, whoever's messages they have
            await store.transaction(lambda db, id=conversation: take_out_of_sight(db, id))  # type: ignore[misc]
        blanked = await self._blank(leaving)
        await self._outbox()
        await store.transaction(self._people)
        await store.transaction(lambda db: self._damaged(db, leaving, blanked))
        for conversation in sorted(leaving):
            done.messages += await delete_conversation(store, conversation)
        done.conversations, done.shared = len(leaving), len(said.shared - leaving)
        await store.write_anew()
        while await store.give_back(spare=0):
            pass
        done.emptied = await store.shrink_journal()
        return done

    async def _through(self, table: str, work: Callable[[sqlite3.Connection, tuple[int, int]], None]) -> None:
        """Call `work` with the connection and the bounds of ids, for one range of a table's rows after the other."""
        query = f"SELECT coalesce(min(id), 0), coalesce((SELECT max(id) FROM {table}), -1) + 1 FROM {table}"
        first, end = await self._store.transaction(lambda db: db.execute(query).fetchone())
        for at in range(first, end, RANGE):
            await self._store.transaction(lambda db, span=(at, at + RANGE): work(db, span))  # type: ignore[misc]

    # --- a channel ---------------------------------------------------------------------------------------------

    async def _channel(self) -> list[int]:
        """The conversations of the channel, those that the person has alone in any, and those being deleted anyway.

        Forgets the ids of the channel's messages.
        """

        def conversations(db: sqlite3.Connection, span: tuple[int, int]) -> None:
            query = "SELECT id, channel, leaving FROM conversations WHERE id >= ? AND id < ?"
            rows = db.execute(query, span).fetchall()
            found.extend(id for id, key, gone in rows if gone == 1 or (isinstance(key, str) and belongs(key, self._id)))

        def ids(db: sqlite3.Connection) -> None:
            for bot in names_of(db, "messages"):
                db.execute("DELETE FROM messages WHERE bot = ? AND channel = ?", (bot, self._id))

        found: list[int] = []
        await self._through("conversations", conversations)
        await self._store.transaction(ids)
        return found

    # --- messages of conversations -----------------------------------------------------------------------------

    async def _nodes(self, leaving: set[int]) -> None:
        """Find what the person said; then copies and quotes of it, and who else speaks where."""

        def own(db: sqlite3.Connection, span: tuple[int, int]) -> None:
            query = (
                "SELECT id, conversation, created, text, name FROM nodes "
                "WHERE id >= ? AND id < ? AND role = 'user' AND author = ?"
            )
            for row in db.execute(query, (*span, self._id)).fetchall():
                self._said.add(*row)

        def others(db: sqlite3.Connection, span: tuple[int, int]) -> None:
            query = (
                "SELECT id, conversation, created, text, name, author, removed FROM nodes "
                "WHERE id >= ? AND id < ? AND role = 'user' AND author != ?"
            )
            for row in db.execute(query, (*span, self._id)).fetchall():
                if row[1] not in leaving and isinstance(row[3], str):
                    self._other(db, row)

        await self._through("nodes", own)
        await self._store.transaction(self._learn_names)
        if self._said.nodes or self._said.names:
            await self._through("nodes", others)

    def _other(self, db: sqlite3.Connection, row: tuple[Any, ...]) -> None:
        id, conversation, created, text, name, author, removed = row
        said = self._said
        if text and text in said.texts.get(created, ()):  # copied to where somebody else went on from it
            said.add(id, conversation, created, text, "")
            said.copies.add(id)
            said.shared.add(conversation)
            return
        if conversation in said.conversations and not removed:
            said.shared.add(conversation)
        self._done.nameless += author == "" and name in said.names and not removed
        if text.startswith("> ") and (rest := without_quote(text, said.texts)) is not None:
            db.execute("UPDATE nodes SET text = ? WHERE id = ?", (rest, id))
            self._done.quotes += 1

    def _learn_names(self, db: sqlite3.Connection) -> None:
        for table in ("people", "usage"):
            for bot in names_of(db, table):
                query = f"SELECT name FROM {table} WHERE bot = ? AND user = ? AND name != ''"
                self._said.names |= {name for (name,) in db.execute(query, (bot, self._id))}

    async def _blank(self, leaving: set[int]) -> set[int]:
        """Empty what the person said where others speak, too, and the answers to it; later messages stay."""

        def work(db: sqlite3.Connection, chunk: list[int]) -> None:
            answers = "SELECT id FROM nodes WHERE parent = ? AND role = 'assistant'"
            of_chunk = set(chunk)
            for one in chunk:
                of_chunk |= {id for (id,) in db.execute(answers, (one,))}
            ids = [(id,) for id in sorted(of_chunk)]
            self._done.box_rows += sum(_delete_undelivered(db, *one) for one in ids)
            forget_nodes(db, ids)
            self._damaged(db, leaving, of_chunk)
            db.executemany(
                "UPDATE nodes SET removed = 1, text = '', name = '', author = '', tokens = NULL, tail = NULL, "
                "vocabulary = NULL, thoughts = NULL, frame = NULL, service_id = NULL WHERE id = ?",
                ids,
            )
            blanked.update(of_chunk)

        blanked: set[int] = set()
        # Copies are known by what they are copies of.
        there = [*sorted(self._said.copies), *sorted(self._said.nodes - self._said.copies)]
        for at in range(0, len(there), CHUNK):
            await self._store.transaction(lambda db, chunk=there[at : at + CHUNK]: work(db, chunk))  # type: ignore[misc]
        kept = await self._store.transaction(lambda db: [id for id in blanked if _conversation(db, id) not in leaving])
        self._done.blanked = len(kept)
        return blanked

    # --- boxes -------------------------------------------------------------------------------------------------

    async def _inbox(self) -> None:
        """Delete the channel's rows, and what those of the person hold; quotes in those of others."""

        def work(db: sqlite3.Connection, span: tuple[int, int]) -> None:
            rows = db.execute(
                "SELECT id, channel, message FROM inbox "
                f"WHERE id >= ? AND id < ? AND (channel = ? OR instr(message, ?) OR {INBOX_OPEN})",
                (*span, self._id, self._id),
            ).fetchall()
            for id, channel, message in rows:
                if channel == self._id or _in_channel(message, self._id):
                    self._done.box_rows += db.execute("DELETE FROM inbox WHERE id = ?", (id,)).rowcount
                elif _author(message) == self._id:
                    gone = "UPDATE inbox SET state = 'dropped', message = '', error = '', live = '[]' WHERE id = ?"
                    self._done.box_rows += db.execute(gone, (id,)).rowcount
                elif (rest := _without_quoted(message, self._said.texts)) is not None:
                    self._done.quotes += db.execute("UPDATE inbox SET message = ? WHERE id = ?", (rest, id)).rowcount

        await self._through("inbox", work)

    async def _outbox(self) -> None:
        """Delete the channel's rows; those that show what was emptied went with it."""

        def work(db: sqlite3.Connection, span: tuple[int, int]) -> None:
            deleted = db.execute("DELETE FROM outbox WHERE id >= ? AND id < ? AND channel = ?", (*span, self._id))
            self._done.box_rows += deleted.rowcount

        await self._through("outbox", work)

    # --- people, and what can't be read ------------------------------------------------------------------------

    def _people(self, db: sqlite3.Connection) -> None:
        for bot in names_of(db, "usage"):
            deleted = db.execute("DELETE FROM usage WHERE bot = ? AND user = ?", (bot, self._id))
            self._done.usage_days += deleted.rowcount
        for bot in names_of(db, "people"):
            deleted = db.execute("DELETE FROM people WHERE bot = ? AND user = ?", (bot, self._id))
            self._done.pairings += deleted.rowcount
            db.execute("UPDATE people SET paired_by = '' WHERE bot = ? AND paired_by = ?", (bot, self._id))

    def _damaged(self, db: sqlite3.Connection, leaving: set[int], nodes: set[int]) -> None:
        """Rows that can't be read name the person or the channel somewhere, or what is deleted with them."""
        for id, origin, kept in db.execute("SELECT id, origin, kept FROM damaged").fetchall():
            row = _loaded(kept)
            of_node = origin == "nodes" and (row.get("conversation") in leaving or row.get("id") in nodes)
            of_talk = origin == "conversations" and row.get("id") in leaving
            if of_node or of_talk or row.get("node") in nodes or any(mentions(text, self._id) for text in _texts(row)):
                db.execute("DELETE FROM damaged WHERE id = ?", (id,))
                self._done.damaged_rows += 1


def belongs(key: str, id: str) -> bool:
    """Whether a conversation's key is that channel's, in any scope, or that person's own in a channel."""
    if key == id or key.startswith((f"{id}/", f"{id}#")):
        return True
    return key.endswith(f"/{id}") and _SIDE not in key


def without_quote(text: str, said: dict[float, set[str]]) -> str | None:
    """What is left of a message without the quote that it begins with; None where that quotes nothing of `said`."""
    lines = text.split("\n")
    count = next((at for at, line in enumerate(lines) if not line.startswith("> ")), len(lines))
    if not _is_of("\n".join(line[2:] for line in lines[:count]), said):
        return None
    return "\n".join(lines[count:]).lstrip("\n")


def _is_of(quote: str, said: dict[float, set[str]]) -> bool:
    quote = quote.removesuffix(" […]").strip()
    return bool(quote) and any(quote in one for texts in said.values() for one in texts)


def _without_quoted(message: object, said: dict[float, set[str]]) -> str | None:
    """A waiting message without its quote; None where it quotes nothing of `said`."""
    fields = _loaded(message)
    if not isinstance(quoted := fields.get("quoted"), str) or not _is_of(quoted, said):
        return None
    return json.dumps({**fields, "quoted": ""}, ensure_ascii=False)


def mentions(text: str, id: str) -> bool:
    """Whether an id stands in a text, by itself and not as a part of a longer one."""
    return re.search(rf"(?<![0-9A-Za-z]){re.escape(id)}(?![0-9A-Za-z])", text) is not None


def _delete_undelivered(db: sqlite3.Connection, node: int) -> int:
    """Delete what is still to go out of a node, or of an answer to it; how many rows."""
    asked = db.execute(
        "SELECT inbox.id FROM messages JOIN inbox ON inbox.bot = messages.bot AND inbox.channel = messages.channel "
        "AND inbox.service_id = messages.message_id WHERE messages.node = ?",
        (node,),
    ).fetchall()
    deleted = db.execute(f"DELETE FROM outbox WHERE {OUTBOX_OPEN} AND node = ?", (node,)).rowcount
    for received in asked:
        deleted += db.execute(f"DELETE FROM outbox WHERE {OUTBOX_OPEN} AND received = ?", received).rowcount
    return deleted


def _conversation(db: sqlite3.Connection, node: int) -> object:
    row = db.execute("SELECT conversation FROM nodes WHERE id = ?", (node,)).fetchone()
    return row and row[0]


def _loaded(text: object) -> dict[str, object]:
    with suppress(ValueError, RecursionError, TypeError):
        if isinstance(text, str | bytes) and isinstance(found := json.loads(text), dict):
            return found
    return {}


def _author(message: object) -> object:
    author = _loaded(message).get("author")
    return author.get("id") if isinstance(author, dict) else None


def _in_channel(message: object, id: str) -> bool:
    channel = _loaded(message).get("channel")
    return isinstance(channel, dict) and channel.get("parent") == id


def _texts(row: dict[str, object]) -> Iterator[str]:
    """All values of a row as texts, those that were kept in hexadecimal as well."""
    for value in row.values():
        if isinstance(value, dict):
            for packed in value.values():
                with suppress(ValueError, TypeError):
                    yield bytes.fromhex(packed).decode("utf-8", "replace")
        else:
            yield str(value)
