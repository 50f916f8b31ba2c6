"""A row of which one value can't be read is put aside, whichever it is, and what of it is good is still there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatbridge.errors import StoreError
from chatbridge.store import Inbox, KeptAnswer, MessageIndex, NewOutboxMessage, Outbox, Store
from chatbridge.store.queue import Queue
from chatbridge.store.tables import CONVERSATIONS, NODES, Column
from chatbridge.types import Attachment, Author, Channel, Message, Press, Reply

ANN, ROOM = Author("a", "Ann"), Channel("room", kind="group")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "test.db")
    yield store
    await store.aclose()


async def talk_of(store: Store) -> list[int]:
    """A conversation with two messages of Ann and the answers to them; the ids of these."""
    talk, parent, ids = await store.conversation("bot", "room"), None, []
    for number in "12":
        asked = await store.append(talk.id, "user", f"asked {number}", parent=parent, service_id=number)
        reply = Reply(f"said {number}", (1, 2), "", "v", "thought")
        parent = (await store.append(talk.id, "assistant", reply.text, parent=asked.id, reply=reply)).id
        ids += [asked.id, parent]
    return ids


async def spoil(store: Store, statement: str, *values: object) -> None:
    """Write what no check of the table would let in."""

    def work(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute(statement, values)
        db.execute("PRAGMA ignore_check_constraints = OFF")

    await store.transaction(work, checked=False)


BAD: dict[str, object] = {"text": b"\x00\x01", "ids": "words", "int": "words", "flag": "words", "real": "words"}
BAD |= {"object": "[]"}


def bad(columns: dict[str, Column]) -> list[tuple[str, object]]:
    return [(name, BAD[column.kind]) for name, column in columns.items()]


READ_NODES = {name: one for name, one in NODES.columns.items() if name != "removed"}
READ_CONVERSATIONS = {
    name: one for name, one in CONVERSATIONS.columns.items() if name not in ("current", "leaving", "touched")
}


@pytest.mark.parametrize(("column", "value"), bad(READ_NODES))
async def test_whichever_value_of_a_message_is_bad_it_is_mended(store: Store, column: str, value: object) -> None:
    ids = await talk_of(store)
    await spoil(store, f"UPDATE nodes SET {column} = ? WHERE id = ?", value, ids[1])
    node = await store.node(ids[1])
    assert store.damaged_rows == 1
    assert (node.text, node.conversation) == ("\x00\x01" if column == "text" else "said 1", 1)
    await store.node(ids[1])
    assert store.damaged_rows == 1, "it is good now"


@pytest.mark.parametrize(("column", "value"), bad(READ_CONVERSATIONS))
async def test_whichever_value_of_a_conversation_is_bad_it_is_mended(store: Store, column: str, value: object) -> None:
    ids = await talk_of(store)
    await store.set_head(1, ids[1])
    await store.set_trim(1, ids[0], 7)
    await spoil(store, f"UPDATE conversations SET {column} = ? WHERE id = 1", value)
    talk = await store.get(1)
    assert store.damaged_rows == 1
    assert talk.head == (ids[3] if column == "head" else ids[1]), "what was said last, where it is not known"
    assert talk.trim == (None if column == "trim" else ids[0])


async def test_a_message_belongs_where_those_beside_it_do(store: Store) -> None:
    ids = await talk_of(store)
    await spoil(store, "UPDATE nodes SET conversation = 'words' WHERE id = ?", ids[0])
    assert [node.id for node in await store.path(1)] == ids


async def test_a_message_of_which_nobody_knows_where_it_belongs_is_told_of_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    lone = await store.append((await store.conversation("bot", "room")).id, "user", "hi", parent=None, move=False)
    await spoil(store, "UPDATE nodes SET conversation = 'words' WHERE id = ?", lone.id)
    for _ in range(2):
        assert await store.look_through() == 1
    assert store.damaged_rows == 1
    assert caplog.text.count("can't be read") == 1


async def test_a_message_alone_keeps_its_conversation_whatever_else_is_bad(store: Store) -> None:
    lone = await store.append((await store.conversation("bot", "room")).id, "user", "hi", parent=None)
    await spoil(store, "UPDATE nodes SET name = ? WHERE id = ?", b"\x00", lone.id)
    assert ((await store.node(lone.id)).conversation, (await store.node(lone.id)).name) == (1, "")


async def test_a_title_that_can_not_be_read_is_none(store: Store) -> None:
    ids = await talk_of(store)
    await spoil(store, "UPDATE nodes SET text = ? WHERE id = ?", b"\x00", ids[0])
    assert [talk.title for talk in await store.conversations()] == [""]
    assert store.damaged_rows == 0


def test_ids_their_tail_and_their_vocabulary_mean_something_together() -> None:
    row = dict.fromkeys(NODES.columns) | {"tokens": b"1234", "tail": "", "vocabulary": "v"}
    assert not {"tokens", "tail", "vocabulary"} & NODES.complaints(row).keys()
    for alone in ("tokens", "tail", "vocabulary"):
        only = {**row, "tokens": None, "tail": None, "vocabulary": None, alone: row[alone]}
        assert NODES.complaints(only)[alone] == "it stands alone"
    assert NODES.complaints({**row, "tokens": b"123", "tail": None})["tokens"] == "it holds no ids of tokens"


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_beyond_all_numbers_is_none(value: float) -> None:
    assert Column("real").complaint(value) == "it is no number"


@pytest.mark.parametrize("live", ["[5]", '{"a": "b"}', '"m1"', "7"])
async def test_a_message_whose_shown_answer_can_not_be_read_is_put_aside(store: Store, live: str) -> None:
    await Inbox(store).add("bot", Message("1", ROOM, ANN, "hi"))
    await store.execute("UPDATE inbox SET live = ?", live)
    assert await Inbox(store).open("bot") == []
    assert store.damaged_rows == 1


async def test_a_message_of_which_nothing_is_left_is_put_aside(store: Store) -> None:
    await Inbox(store).add("bot", Message("1", ROOM, ANN, "hi"))
    await store.execute("UPDATE inbox SET message = ''")
    assert await Inbox(store).open("bot") == []
    (entry,) = await Queue(store).entries()
    assert "there is no message in it" in entry.error


async def test_a_file_that_can_not_be_unpacked_is_put_aside_with_its_message(store: Store) -> None:
    file = Attachment("a.txt", "text/plain", b"words")
    await Inbox(store).add("bot", Message("1", ROOM, ANN, "hi", attachments=(file,)))
    await store.execute("UPDATE inbox SET message = replace(message, 'd29yZHM=', 'd29y!ZHM=')")
    assert await Inbox(store).open("bot") == []


async def test_half_characters_of_an_edit_are_stored_as_those_of_a_message(store: Store) -> None:
    await Inbox(store).add("bot", Message("1", ROOM, ANN, "hi"))
    assert await Inbox(store).revise("bot", Message("1", ROOM, ANN, "a\ud800b"))
    (item,) = await Inbox(store).open("bot")
    assert item.asked is not None
    assert isinstance(item.asked, Message)
    assert item.asked.text == "a?b"


async def test_what_goes_back_is_what_it_was_byte_for_byte(store: Store) -> None:
    await Outbox(store).put("bot", "room", [NewOutboxMessage("send", content="{}")])
    await spoil(store, "UPDATE outbox SET part = CAST(? AS TEXT), error = ?", b"\xff\xfe", b"\x00\x01")
    columns = "SELECT typeof(part), hex(part), typeof(error), hex(error), doubtful, node FROM outbox"
    before = await store.transaction(lambda db: db.execute(columns).fetchone())
    assert await Outbox(store).open("bot") == []
    assert await store.transaction(lambda db: db.execute(columns).fetchone()) is None
    await Queue(store).retry("damaged-1")
    assert await store.transaction(lambda db: db.execute(columns).fetchone()) == before
    await store.execute("INSERT INTO damaged SELECT 5, 'outbox', ?, ?, 0, 0", "", json.dumps({"id": 1}))
    with pytest.raises(StoreError, match="another row has its place"):
        await Queue(store).retry("damaged-5")


@pytest.mark.parametrize("id", ["in-" + "9" * 19, "in-٣", "in-²", "in-", "out", "x-1", "damaged_1"])
async def test_what_is_no_name_of_an_entry_is_called_that(store: Store, id: str) -> None:
    with pytest.raises(StoreError, match="is no entry of the queue"):
        await Queue(store).retry(id)


async def test_an_entry_whose_number_nobody_has_is_not_there(store: Store) -> None:
    with pytest.raises(StoreError, match="there is nothing to be done about in-9"):
        await Queue(store).retry("in-" + "9" * 18)


async def test_the_queue_shows_what_of_an_entry_can_be_read(store: Store) -> None:
    inbox = Inbox(store)
    await inbox.add("bot", Press("regenerate", "1", ROOM, ANN))
    await inbox.add("bot", Message("2", ROOM, ANN, "words"))
    await spoil(store, "UPDATE inbox SET attempts = 'many', created = 'long ago' WHERE id = 2")
    await inbox.add("bot", Message("3", ROOM, ANN, "words"))
    await spoil(store, "UPDATE inbox SET message = 5, created = 9e9 WHERE id = 3")
    await inbox.add("bot", Message("4", ROOM, ANN, "words"))
    await spoil(store, "UPDATE inbox SET message = ?, created = 9e10 WHERE id = 4", 7.5)
    entries = {entry.id: entry for entry in await Queue(store).entries()}
    assert [entries[f"in-{number}"].text for number in range(1, 5)] == ["regenerate", "words", "5", "7.5"]
    assert (entries["in-2"].attempts, entries["in-2"].created, entries["in-3"].created) == (0, 0.0, 9e9)


@pytest.mark.parametrize("spoilt", ["nodes SET text = ? WHERE id = 2", "conversations SET channel = ? WHERE id = 1"])
async def test_a_kept_answer_that_can_not_be_read_is_asked_for_anew(store: Store, spoilt: str) -> None:
    talk, index = await store.conversation("bot", "room"), MessageIndex(store)
    asked = await store.append(talk.id, "user", "hi", parent=None, service_id="1", channel="room")
    await store.append(talk.id, "assistant", "hello", parent=asked.id)
    assert await index.kept_answer("bot", "room", "1") == KeptAnswer("room", 2, "hello", partial=False, latest=True)
    await spoil(store, f"UPDATE {spoilt}", b"\x00")
    assert await index.kept_answer("bot", "room", "1") is None
