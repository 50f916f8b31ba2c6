"""Rows that can't be read: put aside whole, told once, and in nobody's way."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge.errors import StoreError
from chatbridge.store import Cursors, Inbox, MessageIndex, NewOutboxMessage, Outbox, Pairings, Store, UsageLog, audit
from chatbridge.store.queue import Queue
from chatbridge.store.tables import TABLES, Table
from chatbridge.types import Author, Channel, Message, Press, Reply

ROOMS = ("one", "two", "three")
PEOPLE = [Author(f"person {room}", room, roles=("r",)) for room in ROOMS]


def message(room: str, id: str) -> Message:
    return Message(id, Channel(room, kind="group"), PEOPLE[ROOMS.index(room)], f"{id} in {room}")


@pytest.fixture
async def filled(tmp_path: Path) -> Path:
    return await fill(tmp_path / "store")


async def fill(path: Path) -> Path:
    """A store with a row for each room in each table."""
    store = await Store.open(path)
    inbox, outbox = Inbox(store), Outbox(store)
    for room, person in zip(ROOMS, PEOPLE, strict=True):
        talk = await store.conversation("bot", room)
        asked = await store.append(talk.id, "user", f"hello {room}", parent=None, service_id="1", channel=room)
        reply = Reply(f"answer {room}", (1, 2, 3), "", "v")
        await store.append(talk.id, "assistant", reply.text, parent=asked.id, reply=reply)
        await store.set_overrides(talk.id, {"model": "m"})
        await inbox.add("bot", message(room, "2"), (room, 7))
        await inbox.add("bot", Press("regenerate", "1", Channel(room), person, id="p"))
        await outbox.put("bot", room, [NewOutboxMessage("send", content='{"text": "out"}')])
        await Pairings(store).request("bot", person)
        await UsageLog(store).add("bot", person, "2026-01-01", 10)
    await store.aclose()
    return path


def spoil(path: Path, table: Table, row: int, column: str, value: object) -> None:
    """Write a value into a column as a damaged page would have it, whatever its type and its checks."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("PRAGMA foreign_keys = OFF")
        (sql,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table.name,)).fetchone()
        if value is None and column not in table.key:
            rewrite(path, table.name, sql.replace(" NOT NULL", ""))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("PRAGMA foreign_keys = OFF")
        keys = ", ".join(table.key)
        key = db.execute(f"SELECT {keys} FROM {table.name} ORDER BY {keys}").fetchall()[row]
        place = "CAST(? AS TEXT)" if value == b"\xff\xfe not UTF-8" else "?"
        where = " AND ".join(f"{name} = ?" for name in table.key)
        db.execute(f"UPDATE {table.name} SET {column} = {place} WHERE {where}", (value, *key))
    rewrite(path, table.name, sql)


def rewrite(path: Path, table: str, sql: str) -> None:
    """Put another text in the place of a table's declaration."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, table))


async def everything(store: Store) -> dict[str, list[Any]]:
    """What each chat finds in the store, by its room; each is asked for in the way that programs ask."""
    found: dict[str, list[Any]] = {room: [] for room in ROOMS}
    for item in await Inbox(store).open("bot"):
        if item.channel in found and item.asked is not None:
            found[item.channel].append(("in", item.asked.id))
    for out in await Outbox(store).open("bot"):
        if out.channel in found:
            found[out.channel].append(("out", out.content))
    cursors, index = await Cursors(store).all("bot"), MessageIndex(store)
    pairings = {pairing.user: pairing.name for pairing in await Pairings(store).all("bot")}
    usage = {day.user: day.tokens for day in await UsageLog(store).of_day("bot", "2026-01-01")}
    for room, person in zip(ROOMS, PEOPLE, strict=True):
        talk = await store.conversation("bot", room)
        path = await store.path(talk.id)
        kept, ref = await index.kept_answer("bot", room, "1"), await index.find("bot", room, "1")
        found[room] += [
            talk.overrides,
            [(node.role, node.text, node.reply) for node in path],
            (kept and kept.text, ref and ref.key, cursors.get(room), pairings.get(person.id), usage.get(person.id)),
            [node.text for node in await store.leaves(talk.id)],
            (await store.export(talk.id))["chatbridge"],
        ]
    return found


async def use(store: Store, room: str) -> None:
    """A chat goes on: a message comes and is answered."""
    talk = await store.conversation("bot", room)
    item = await Inbox(store).add("bot", message(room, "9"), (room, 9))
    assert item is not None
    asked = await store.append(talk.id, "user", "more", parent=talk.head, service_id="9", channel=room)
    await store.append(talk.id, "assistant", "fine", parent=asked.id)
    assert [node.text for node in await store.path(talk.id)][-2:] == ["more", "fine"]
    await Outbox(store).put("bot", room, [NewOutboxMessage("send", content='{"text": "y"}')], inbox_id=item.id)
    author = PEOPLE[ROOMS.index(room)]
    await UsageLog(store).add("bot", author, "2026-01-01", 1)
    assert isinstance(await UsageLog(store).tokens("bot", author.id, "2026-01-01"), int)
    await Pairings(store).request("bot", author)
    assert (await Cursors(store).all("bot"))[room] >= 9


COLUMNS = [(table, column) for table in TABLES.values() for column in table.columns]
VALUES = st.sampled_from(
    [
        None,
        b"\xff\xfe not UTF-8",
        b"\x00\x01",
        "",
        "words",
        '{"half',
        "[]",
        '{"new": 1}',
        5,
        -1,
        2**62,
        1.5,
        float("inf"),
    ]
)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(COLUMNS), st.integers(0, 2), VALUES)
async def test_one_bad_row_harms_no_other_chat(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[Table, str], row: int, value: object
) -> None:
    table, column = where
    path = await fill(tmp_path_factory.mktemp("spoilt") / "store")
    store = await Store.open(path)
    before = await everything(store)
    await store.aclose()
    try:
        spoil(path, table, row, column, value)
    except sqlite3.IntegrityError:  # two rows of one key are no damage that SQLite can hold
        return
    store = await Store.open(path)
    try:
        after = await everything(store)
        assert len([room for room in ROOMS if before[room] != after[room]]) <= 1
        for room in ROOMS:
            await use(store, room)
        told = store.damaged_rows
        await everything(store)
        await store.look_through()
        assert await Queue(store).entries() is not None
    finally:
        await store.aclose()
    again = await Store.open(path)
    try:
        assert again.damaged_rows >= told
        before_looking = again.damaged_rows
        await everything(again)
        assert again.damaged_rows == before_looking, "what was told is not told again"
    finally:
        await again.aclose()


@pytest.mark.parametrize("value", [b"\x00\x01", "words"], ids=["bytes", "words"])
@pytest.mark.parametrize("column", ["bot", "channel", "attempts", "error", "created"])
@pytest.mark.parametrize("box", ["inbox", "outbox"])
async def test_the_queue_lists_what_was_not_put_aside_yet(filled: Path, box: str, column: str, value: object) -> None:
    store = await Store.open(filled)
    try:
        before = await Queue(store).entries()
        spoil(filled, TABLES[box], 0, column, value)
        entries = await Queue(store).entries()
        assert {entry.id for entry in entries} == {entry.id for entry in before}
        for entry in entries:
            assert isinstance(entry.attempts, int)
            assert isinstance(entry.created, float)
            assert all(isinstance(words, str) for words in (entry.bot, entry.channel, entry.error, entry.text))
    finally:
        await store.aclose()


NAMES = [(table, name) for table, name in COLUMNS if table.columns[name].utf8]


@pytest.mark.parametrize(("table", "column"), NAMES, ids=[f"{table.name}-{name}" for table, name in NAMES])
async def test_a_name_that_is_no_utf8_is_found_before_anybody_asks_for_it(
    filled: Path, table: Table, column: str
) -> None:
    spoil(filled, table, 0, column, b"\xff\xfe not UTF-8")
    store = await Store.open(filled)
    try:
        await store.look_through()
        assert store.damaged_rows == 1
    finally:
        await store.aclose()


@pytest.mark.parametrize("rows", [1, 2, 250])
async def test_however_few_rows_are_looked_at_together_each_bad_one_is_found(
    filled: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "STEP_ROWS", rows)
    for row in (1, 2):
        spoil(filled, TABLES["people"], row, "name", b"\xff\xfe not UTF-8")
        spoil(filled, TABLES["usage"], row, "tokens", "many")
    spoil(filled, TABLES["people"], 0, "user", b"\xff\xfe not UTF-8")
    spoil(filled, TABLES["nodes"], 5, "role", "robot")
    spoil(filled, TABLES["conversations"], 2, "head", 1)
    store = await Store.open(filled)
    try:
        while await store.look_on():
            pass
        assert store.damaged_rows == 6, "messages of conversations are looked at when they are read"
        assert not await store.look_on()
        assert await store.look_through() == 7
        assert [usage.user for usage in await UsageLog(store).of_day("bot", "2026-01-01")] == [PEOPLE[0].id]
    finally:
        await store.aclose()


@pytest.mark.parametrize(
    "content",
    ['{"id": "9", "forwarded": true}', '{"id": "9", "chann', "[]", "null", '"words"', "{}"],
)
async def test_a_message_that_can_not_be_read_is_put_aside_whole(
    filled: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(filled, TABLES["inbox"], 0, "message", content)
    store = await Store.open(filled)
    try:
        assert len(await Inbox(store).open("bot")) == 5
        (told,) = [record.getMessage() for record in caplog.records if "can't be read" in record.getMessage()]
        assert "row 1 of table inbox" in told
        assert "it is put aside as damaged-1" in told
        (entry,) = [entry for entry in await Queue(store).entries() if entry.given_up]
        assert (entry.id, entry.channel, entry.state) == ("damaged-1", "inbox", "damaged")
        assert json.loads(entry.text)["message"] == content
        await Queue(store).retry(entry.id)  # for a version that can read it
        assert store.damaged_rows == 1
        await Inbox(store).open("bot")
        assert [entry.id for entry in await Queue(store).entries() if entry.given_up] == ["damaged-2"]
        await Queue(store).drop("damaged-2")
        with pytest.raises(StoreError, match="no damaged-2"):
            await Queue(store).retry("damaged-2")
    finally:
        await store.aclose()


async def test_a_conversation_goes_on_with_what_of_it_can_be_read(filled: Path) -> None:
    spoil(filled, TABLES["conversations"], 0, "overrides", "{")
    spoil(filled, TABLES["nodes"], 1, "tokens", b"12345")
    spoil(filled, TABLES["nodes"], 0, "text", b"\xff\xfe not UTF-8")
    spoil(filled, TABLES["conversations"], 1, "head", 1)
    store = await Store.open(filled)
    try:
        talk = await store.conversation("bot", "one")
        assert talk.overrides == {}
        assert [node.text for node in await store.path(talk.id)] == ["�� not UTF-8", "answer one"]
        other = await store.conversation("bot", "two")
        assert [node.text for node in await store.path(other.id)] == ["hello two", "answer two"]
        assert {entry.state for entry in await Queue(store).entries() if entry.given_up} == {"mended"}
        assert store.damaged_rows == 4
        with pytest.raises(StoreError, match="only be dropped"):
            await Queue(store).retry("damaged-1")
    finally:
        await store.aclose()


async def test_a_conversation_of_which_is_not_known_whose_it_is_is_nobodys(
    filled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for row, column in enumerate(("channel", "bot")):
        spoil(filled, TABLES["conversations"], row, column, b"\xff\xfe not UTF-8")
    store = await Store.open(filled)
    try:
        assert [(talk.bot, talk.channel) for talk in await store.conversations()] == [
            ("bot", "three"),
            ("", "two"),
            ("bot", ""),
        ]
        current = await store.transaction(lambda db: db.execute("SELECT current FROM conversations").fetchall())
        assert current == [(0,), (0,), (1,)]
        assert {(await store.conversation("bot", room)).id for room in ROOMS} == {3, 4, 5}
    finally:
        await store.aclose()
    told = [record.getMessage() for record in caplog.records]
    assert ["it is mended, and kept as damaged-" in line for line in told] == [True, True]


@pytest.mark.parametrize(("column", "value"), [("tail", None), ("vocabulary", None), ("tail", b"\x00")])
async def test_of_an_answers_ids_and_what_they_mean_each_is_nothing_alone(
    filled: Path, column: str, value: object
) -> None:
    spoil(filled, TABLES["nodes"], 1, column, value)
    store = await Store.open(filled)
    try:
        assert (await store.node(2)).reply is None
        row = await store.transaction(
            lambda db: db.execute("SELECT text, tokens, tail, vocabulary FROM nodes WHERE id = 2").fetchone()
        )
        assert row == ("answer one", None, None, None)
        (entry,) = [entry for entry in await Queue(store).entries() if entry.given_up]
        assert entry.state == "mended"
        assert ("tokens: it stands alone" in entry.error) is (value is None)
    finally:
        await store.aclose()


@pytest.mark.parametrize("column", ["code", "paired"])
async def test_what_is_written_over_a_row_that_can_not_be_read_is_as_if_it_were_new(filled: Path, column: str) -> None:
    spoil(filled, TABLES["people"], 0, column, b"\x00")
    spoil(filled, TABLES["usage"], 0, "tokens", "many")
    spoil(filled, TABLES["marks"], 0, "value", "words")  # a text is greater than any number
    person = min(PEOPLE, key=lambda one: one.id)
    store = await Store.open(filled)
    try:
        pairing = await Pairings(store).request("bot", person)
        assert pairing is not None
        assert not pairing.paired
        await UsageLog(store).add("bot", person, "2026-01-01", 3)
        assert await UsageLog(store).tokens("bot", person.id, "2026-01-01") == 3
        await Cursors(store).advance("bot", min(ROOMS), 2)
        assert await Cursors(store).get("bot", min(ROOMS)) == 2
    finally:
        await store.aclose()


async def test_a_message_that_follows_itself_stops_nobody(filled: Path) -> None:
    spoil(filled, TABLES["nodes"], 0, "parent", 2)
    store = await Store.open(filled)
    try:
        talk = await store.conversation("bot", "one")
        assert len(await store.path(talk.id)) == 2
    finally:
        await store.aclose()
