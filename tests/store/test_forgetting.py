"""What somebody said is gone: from conversations, copies, quotes, boxes, lists, damaged rows, and the files' bytes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from chatbridge.errors import StoreError
from chatbridge.store import (
    Cursors,
    Inbox,
    MessageIndex,
    NewOutboxMessage,
    Outbox,
    Pairings,
    Store,
    UsageLog,
    forgetting,
)
from chatbridge.store.damaged import put_aside
from chatbridge.store.forgetting import belongs, forget, mentions, without_quote
from chatbridge.store.tables import NODES
from chatbridge.types import Author, Channel, Message, Press, Reply

ANN, BEN = Author("111", "Ann"), Author("222", "Ben")
SECRET = "the zeppelin is in the barn"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "test.db")
    yield store
    await store.aclose()


def files_with(folder: Path, words: str) -> list[str]:
    """The files that hold these words, in UTF-8 or in hexadecimal."""
    data = {file.name: file.read_bytes() for file in folder.iterdir()}
    plain, packed = words.encode(), words.encode().hex().encode()
    return [name for name, held in data.items() if plain in held or packed in held]


async def group(store: Store, room: str = "room") -> tuple[int, list[int]]:
    """A conversation in which Ann and Ben speak in turn; its id, and those of its messages."""
    talk = await store.conversation("bot", room)
    asked = await store.append(
        talk.id, "user", f"secret: {SECRET}", parent=None, name="Ann", author="111", service_id="1", channel=room
    )
    reply = Reply(f"so {SECRET}", (7, 8), "", "v", f"thought of {SECRET}")
    answer = await store.append(talk.id, "assistant", reply.text, parent=asked.id, reply=reply)
    await MessageIndex(store).note("bot", room, "m", answer.id)
    quoting = f"> secret: {SECRET}\nreally?"
    theirs = await store.append(
        talk.id, "user", quoting, parent=answer.id, name="Ben", author="222", service_id="2", channel=room
    )
    told = await store.append(talk.id, "assistant", "yes", parent=theirs.id)
    return talk.id, [asked.id, answer.id, theirs.id, told.id]


async def test_what_a_person_said_and_the_answers_go_and_others_stay(store: Store, tmp_path: Path) -> None:
    id, nodes = await group(store)
    assert files_with(tmp_path, SECRET)
    done = await forget(store, "111")
    assert (done.blanked, done.quotes, done.conversations, done.shared) == (2, 1, 0, 1)
    assert [(node.text, node.name) for node in await store.path(id)] == [("really?", "Ben"), ("yes", "")]
    index = MessageIndex(store)
    assert [await index.find("bot", "room", id) for id in ("1", "m")] == [None, None]
    left = await index.find("bot", "room", "2")
    assert left is not None
    assert left.node == nodes[2]
    assert not files_with(tmp_path, "zeppelin")
    assert not files_with(tmp_path, "Ann")
    assert done.emptied


@pytest.mark.parametrize("rows", [1, 3])
async def test_however_few_rows_are_looked_at_together_all_goes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(forgetting, "RANGE", rows)
    inbox = Inbox(store)
    for number in range(4):
        await group(store, f"room{number}")
        assert await inbox.add("bot", Message(f"{number}", Channel("g", kind="group"), ANN, SECRET)) is not None
    done = await forget(store, "111")
    assert (done.blanked, done.quotes, done.shared, done.box_rows) == (8, 4, 4, 4)
    assert not files_with(tmp_path, SECRET)


async def test_a_conversation_with_nobody_else_goes_whole(store: Store, tmp_path: Path) -> None:
    talk = await store.conversation("bot", "private")
    await store.set_overrides(talk.id, {"system": SECRET})
    asked = await store.append(talk.id, "user", "hi", parent=None, name="Ann", author="111", service_id="1")
    await store.append(talk.id, "assistant", "hello", parent=asked.id)
    done = await forget(store, "111")
    assert (done.conversations, done.messages, done.blanked) == (1, 2, 0)
    assert await store.conversations() == []
    assert not files_with(tmp_path, SECRET)


async def test_a_copy_that_somebody_else_went_on_from_is_forgotten_as_well(store: Store, tmp_path: Path) -> None:
    _, nodes = await group(store)
    copied = await store.copy(nodes[1], "room/222", "222")
    await store.append(copied.conversation, "user", "of mine", parent=copied.id, name="Ben", author="222")
    await forget(store, "111")
    assert [node.text for node in await store.path(copied.conversation)] == ["of mine"]
    assert not files_with(tmp_path, SECRET)


async def test_a_channel_goes_with_all_conversations_that_it_has_in_any_scope(store: Store, tmp_path: Path) -> None:
    for key in ("555", "555/111", "555#9", "555/aside/x", "5551", "444/aside/555"):
        await group(store, key)
    inbox, outbox = Inbox(store), Outbox(store)
    item = await inbox.add("bot", Message("8", Channel("555"), BEN, SECRET), ("555", 3))
    assert item is not None
    await outbox.put("bot", "555", [NewOutboxMessage("send", content=f'{{"text": "{SECRET}"}}')])
    thread = Channel("77", kind="group", parent="555")
    assert await inbox.add("bot", Message("9", thread, BEN, SECRET)) is not None
    done = await forget(store, "555")
    assert (done.conversations, done.box_rows) == (4, 3)
    assert {talk.channel for talk in await store.conversations()} == {"5551", "444/aside/555"}
    assert await Cursors(store).all("bot") == {"555": 3}, "what was read once is not read again"
    for key in ("5551", "444/aside/555"):
        await forget(store, key)
    await forget(store, "111")
    assert not files_with(tmp_path, SECRET)


async def test_what_waits_in_the_boxes_goes(store: Store, tmp_path: Path) -> None:
    inbox, outbox = Inbox(store), Outbox(store)
    room = Channel("room", kind="group")
    mine = await inbox.add("bot", Message("1", room, ANN, SECRET))
    pressed = await inbox.add("bot", Press("regenerate", "1", room, ANN, id="p"))
    about = await inbox.add("bot", Message("2", room, BEN, "what did 111 say?"))
    assert mine is not None
    assert pressed is not None
    assert about is not None
    answer = NewOutboxMessage("send", content=f'{{"text": "{SECRET}"}}')
    await outbox.put("bot", "room", [answer], inbox_id=mine.id)
    _, nodes = await group(store)
    await outbox.put("bot", "room", [NewOutboxMessage("edit", "m", SECRET, node=nodes[1])])
    late = await inbox.add("bot", Message("3", room, ANN, SECRET))
    assert late is not None
    await forget(store, "111")
    assert [item.id for item in await inbox.open("bot")] == [about.id]
    assert await outbox.open("bot") == []
    assert not files_with(tmp_path, SECRET)


async def test_pairings_and_usage_go(store: Store, tmp_path: Path) -> None:
    pairings, usage = Pairings(store), UsageLog(store)
    for author in (ANN, BEN):
        pairing = await pairings.request("bot", author)
        assert pairing is not None
        await pairings.pair("bot", pairing.code, "111")
        for bot in ("bot", "other"):
            await usage.add(bot, author, "2026-01-01", 5)
    done = await forget(store, "111")
    assert (done.pairings, done.usage_days) == (1, 2)
    assert [found.user for found in await pairings.all("bot")] == ["222"]
    assert [day.user for day in await usage.of_day("other", "2026-01-01")] == ["222"]
    assert not files_with(tmp_path, "111")


async def test_rows_that_can_not_be_read_go_where_they_name_the_person(store: Store, tmp_path: Path) -> None:
    id, nodes = await group(store)
    kept = [
        ("inbox", {"message": f'{{"author": {{"id": "111", "text": "{SECRET}'}),
        ("nodes", {"id": nodes[0], "conversation": id, "text": {"text": SECRET.encode().hex()}}),
        ("inbox", {"message": {"text": f"id 111 {SECRET}".encode().hex()}}),
        ("inbox", {"message": "1112 and a111"}),
        ("people", {"user": "222"}),
    ]
    for origin, row in kept:
        await store.execute(
            "INSERT INTO damaged (origin, reason, kept, mended, created) VALUES (?, '', ?, 0, 0)",
            origin,
            json.dumps(row),
        )
    assert (await forget(store, "111")).damaged_rows == 3
    assert not files_with(tmp_path, SECRET)


async def test_messages_from_before_ids_were_kept_are_counted_and_left(store: Store) -> None:
    talk = await store.conversation("bot", "room")
    await store.append(talk.id, "user", "long ago", parent=None, name="Ann")
    await UsageLog(store).add("bot", ANN, "2026-01-01", 5)
    assert (await forget(store, "111")).nameless == 1
    assert len(await store.path(talk.id)) == 1


async def test_nobody_is_forgotten_by_half_an_id(store: Store) -> None:
    id, _ = await group(store)
    for other in ("11", "1111", "room2", "222/"):
        done = await forget(store, other)
        assert not any((done.conversations, done.blanked, done.box_rows, done.usage_days, done.pairings))
    assert len(await store.path(id)) == 4


def test_ids_keys_and_quotes_are_told_from_others() -> None:
    assert [belongs(key, "5") for key in ("5", "5/1", "5#1", "1/5", "5/aside/x")] == [True] * 5
    assert [belongs(key, "5") for key in ("55", "1/aside/5", "15", "1#5", "1/55")] == [False] * 5
    assert mentions('{"id": "5"}', "5")
    assert not mentions('{"id": "55"}', "5")
    said = {1.0: {"one\ntwo"}}
    assert without_quote("> one\n> two\nyes", said) == "yes"
    assert without_quote("> one […]\nyes", said) == "yes"
    assert without_quote("> three\nyes", said) is None


async def test_what_others_wait_with_loses_its_quote_of_the_person(store: Store, tmp_path: Path) -> None:
    inbox, room = Inbox(store), Channel("room", kind="group")
    await group(store)
    for id, quoted in (("8", SECRET), ("9", "another's words")):
        assert await inbox.add("bot", Message(id, room, BEN, "is that so?", quoted=quoted)) is not None
    assert (await forget(store, "111")).quotes == 2
    waiting = [item.asked for item in await inbox.open("bot")]
    assert [(asked.text, asked.quoted) for asked in waiting if isinstance(asked, Message)] == [
        ("is that so?", ""),
        ("is that so?", "another's words"),
    ]
    assert not files_with(tmp_path, SECRET)


class Ending(Store):
    """A store whose program ends before one of its next transactions."""

    left = 1 << 62

    async def transaction(self, work: Callable[[sqlite3.Connection], Any], *, checked: bool = True) -> Any:
        self.left -= 1
        if self.left < 0:
            raise StoreError("the program ends")
        return await super().transaction(work, checked=checked)


async def test_it_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    """Whatever it does first, nothing may then be left that only that would have led to."""
    ends = False
    for transactions in range(1000):
        folder = tmp_path / str(transactions)
        folder.mkdir()
        store = await Ending.open(folder / "test.db")
        _, nodes = await group(store)
        copied = await store.copy(nodes[1], "room/222", "222")
        await store.append(copied.conversation, "user", "of mine", parent=copied.id, name="Ben", author="222")
        await group_alone(store)
        mine = await Inbox(store).add("bot", Message("5", Channel("room", kind="group"), ANN, SECRET))
        assert mine is not None
        await Outbox(store).put("bot", "room", [NewOutboxMessage("send", content=SECRET, node=nodes[1])])
        await store.transaction(lambda db, id=nodes[1]: put_aside(db, NODES, (id,), "bad", "thoughts"))  # type: ignore[misc]
        store.left = transactions
        try:
            await forget(store, "111")
            ends = True
        except StoreError:
            store.left = 1 << 62
            await forget(store, "111")
        store.left = 1 << 62
        assert not files_with(folder, "zeppelin"), transactions
        assert sorted(talk.channel for talk in await store.conversations()) == ["room", "room/222"]
        await store.aclose()
        if ends:
            break
    assert transactions > 10
    assert ends


async def group_alone(store: Store) -> None:
    """A conversation in which Ann alone speaks, and the bot two times in turn."""
    talk = await store.conversation("bot", "alone")
    asked = await store.append(talk.id, "user", SECRET, parent=None, name="Ann", author="111", service_id="1")
    answer = await store.append(talk.id, "assistant", "a zeppelin?", parent=asked.id)
    await store.append(talk.id, "assistant", "your zeppelin!", parent=answer.id)


async def damaged(store: Store, origin: str, **row: object) -> int:
    """Put a row with the damaged ones; its id there."""
    insert = "INSERT INTO damaged (origin, reason, kept, mended, created) VALUES (?, '', ?, 0, 0)"
    return await store.transaction(lambda db: db.execute(insert, (origin, json.dumps(row))).lastrowid or 0)


async def test_rows_that_can_not_be_read_go_with_the_conversation_that_they_are_of(store: Store) -> None:
    id, nodes = await group(store, "room/111")
    other, theirs = await group(store, "elsewhere/222")
    gone = [
        await damaged(store, "nodes", id=99, conversation=id),
        await damaged(store, "nodes", id=theirs[0], conversation=other),
        await damaged(store, "conversations", id=id),
        await damaged(store, "messages", node=theirs[1]),
    ]
    stay = [
        await damaged(store, "nodes", id=theirs[2], conversation=other),
        await damaged(store, "conversations", id=other),
        await damaged(store, "conversations", id=theirs[0], conversation=id),
        await damaged(store, "usage", id=nodes[0]),
        await damaged(store, "messages", node=theirs[3]),
    ]
    done = await forget(store, "111")
    assert (done.conversations, done.damaged_rows) == (1, len(gone))
    left = await store.transaction(lambda db: db.execute("SELECT id FROM damaged ORDER BY id").fetchall())
    assert [id for (id,) in left] == stay


async def test_in_a_conversation_of_their_own_nobody_else_is_asked_about(store: Store) -> None:
    await group(store, "room/111")
    done = await forget(store, "111")
    assert (done.conversations, done.messages, done.blanked, done.quotes, done.shared) == (1, 4, 0, 0, 0)


async def test_where_all_that_others_said_was_deleted_a_conversation_goes_whole(store: Store) -> None:
    await group(store)
    assert await MessageIndex(store).remove("bot", "room", "2")
    done = await forget(store, "111")
    assert (done.conversations, done.messages, done.shared) == (1, 4, 0)


async def test_without_an_id_those_of_the_same_name_are_counted(store: Store) -> None:
    talk = await store.conversation("bot", "room")
    mine = await store.append(talk.id, "user", "hi", parent=None, name="Ann", author="111")
    for name, author in (("Ann", ""), ("Ann", "222"), ("Ben", ""), ("", "")):
        await store.append(talk.id, "user", "long ago", parent=mine.id, name=name, author=author)
    await store.append(talk.id, "user", "taken back", parent=None, name="Ann", service_id="9", channel="room")
    assert await MessageIndex(store).remove("bot", "room", "9")
    await UsageLog(store).add("bot", Author("111", ""), "2026-01-01", 5)
    assert (await forget(store, "111")).nameless == 1


async def test_the_ids_of_a_channels_messages_go_also_where_they_show_what_stays(store: Store) -> None:
    _, nodes = await group(store, "elsewhere")
    index = MessageIndex(store)
    await index.note("bot", "555", "forwarded", nodes[2])
    await forget(store, "555")
    assert await index.find("bot", "555", "forwarded") is None
    assert await index.find("bot", "elsewhere", "2") is not None


async def test_a_waiting_message_that_can_not_be_read_stays_where_only_a_part_of_it_is_the_id(store: Store) -> None:
    inbox, room = Inbox(store), Channel("room", kind="group")
    for id in "12":
        assert await inbox.add("bot", Message(id, room, BEN, "about 111")) is not None
    await store.execute("UPDATE inbox SET message = '{\"author\": 111' WHERE id = 1")
    await store.execute("UPDATE inbox SET message = '[\"111\"]' WHERE id = 2")
    assert (await forget(store, "111")).box_rows == 0


async def test_what_loses_a_quote_is_still_found_by_letters_of_any_script(store: Store) -> None:
    hua = Author("华", "华")
    await group(store)
    room = Channel("room", kind="group")
    assert await Inbox(store).add("bot", Message("8", room, hua, "is that so?", quoted=SECRET)) is not None
    assert (await forget(store, "111")).quotes == 2
    assert (await forget(store, "华")).box_rows == 1


async def test_however_few_messages_are_emptied_together_none_is_left_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "CHUNK", 2)
    talk = await store.conversation("bot", "room")
    parent = (await store.append(talk.id, "user", "and I", parent=None, name="Ben", author="222")).id
    for number in range(5):
        parent = (await store.append(talk.id, "user", f"{number}", parent=parent, name="Ann", author="111")).id
    assert (await forget(store, "111")).blanked == 5
    assert [node.text for node in await store.path(talk.id)] == ["and I"]
    assert await store.transaction(lambda db: db.execute("PRAGMA freelist_count").fetchone()) == (0,)


def test_a_message_that_is_nothing_but_a_quote_is_empty_without_it() -> None:
    assert without_quote("> one\n> two", {1.0: {"one\ntwo"}}) == ""
    assert without_quote("> \nyes", {1.0: {"one"}}) is None
