"""Inbox, outbox and queue: what is kept, in which state, and what `kill -9` leaves of it."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge.errors import StoreError
from chatbridge.store import Cursors, Inbox, MessageIndex, NewOutboxMessage, Outbox, Store
from chatbridge.store.inbox import edited
from chatbridge.store.queue import Queue
from chatbridge.store.schema import MIGRATIONS
from chatbridge.types import Attachment, Author, Channel, Message

ROOM = Channel("room", "Room", "group", parent="house")


def message(id: str = "1", text: str = "hi", channel: Channel = ROOM) -> Message:
    return Message(id, channel, Author("a", "Ann"), text, sent_at=1.5, mentions_bot=True, reply_to="0", language="zh")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "test.db")
    yield store
    await store.aclose()


async def test_a_message_is_kept_as_it_came_and_once(store: Store) -> None:
    inbox = Inbox(store)
    came = Message(
        "1",
        ROOM,
        Author("a", "Ann", True),
        "hi \ud800 \x00",
        attachments=(Attachment("x.png", "image/png", b"\x00\xff"),),
    )
    item = await inbox.add("bot", came)
    assert item is not None
    assert item.asked is not None
    assert item.asked.text == "hi ? \x00"
    assert item.asked.attachments == came.attachments
    assert (item.asked.channel, item.asked.author) == (came.channel, came.author)
    assert await inbox.add("bot", came) is None
    assert await inbox.add("other bot", came) is not None
    assert await inbox.add("bot", message("1", channel=Channel("elsewhere"))) is not None


async def test_attempts_are_counted_before_they_are_made(store: Store) -> None:
    inbox = Inbox(store)
    item = await inbox.add("bot", message())
    assert item is not None
    begun = await inbox.begin(item.id)
    assert begun is not None
    assert (begun.attempts, begun.state) == (1, "running")
    (left,) = await inbox.open("bot")  # as after a crash
    assert left.attempts == 1
    await inbox.release(item.id)
    (left,) = await inbox.open("bot")  # as after a shutdown
    assert (left.attempts, left.state) == (0, "waiting")
    await inbox.begin(item.id)
    await inbox.show(item.id, ["m1", "m2"])
    (left,) = await inbox.open("bot")
    assert left.message_ids == ("m1", "m2")
    await inbox.finish(item.id)
    assert await inbox.open("bot") == []
    assert await inbox.begin(item.id) is None
    await inbox.release(item.id)
    assert await inbox.open("bot") == []
    assert await inbox.add("bot", message()) is None


async def test_an_edit_changes_the_words_of_a_message_that_waits_and_nothing_else(store: Store) -> None:
    inbox = Inbox(store)
    files = (Attachment("notes.txt", "text/plain", b"notes"),)
    await inbox.add("bot", replace(message(text="sum thsi up"), attachments=files, wanted=True))
    assert await inbox.revise("bot", Message("1", ROOM, Author("a", "Ann"), "sum this up"))
    (item,) = await inbox.open("bot")
    assert isinstance(item.asked, Message)
    assert (item.asked.text, item.asked.attachments, item.asked.wanted) == ("sum this up", files, True)
    assert item.asked.reply_to == "0"
    await inbox.begin(item.id)
    assert not await inbox.revise("bot", message(text="too late"))


def test_of_an_edit_what_it_tells_is_taken_and_the_rest_is_as_before() -> None:
    old = replace(message(), wanted=True, quoted="before", unreadable="too large")
    silent = Message("1", ROOM, Author("a", "Ann"), "")
    kept = edited(old, silent)
    assert (kept.wanted, kept.quoted, kept.unreadable, kept.reply_to) == (True, "before", "too large", "0")
    words = edited(old, replace(silent, text="words", wanted=False, quoted="after", reply_to=""))
    assert (words.wanted, words.quoted, words.unreadable, words.reply_to) == (False, "after", "", "")
    assert edited(old, replace(silent, unreadable="a virus")).unreadable == "a virus"
    assert edited(old, replace(silent, text="words", unreadable="a virus")).unreadable == "a virus"


async def test_what_was_answered_is_no_damage_when_it_is_asked_for(store: Store) -> None:
    inbox = Inbox(store)
    item = await inbox.add("bot", message())
    assert item is not None
    assert await inbox.asked(item.id) == item.asked
    await inbox.finish(item.id)
    assert await inbox.asked(item.id) is None
    assert store.damaged_rows == 0


async def test_what_was_answered_leaves_no_words_behind(store: Store, tmp_path: Path) -> None:
    inbox, outbox = Inbox(store), Outbox(store)
    item = await inbox.add("bot", message(text="a secret"))
    assert item is not None
    (row,) = await outbox.put(
        "bot", "room", [NewOutboxMessage("send", content='{"text": "an answer"}')], inbox_id=item.id
    )
    await outbox.delivered(row.id, "m1")
    with sqlite3.connect(tmp_path / "test.db") as raw:
        assert raw.execute("SELECT state, message FROM inbox").fetchall() == [("done", "")]
        assert raw.execute("SELECT state, part, message_id FROM outbox").fetchall() == [("delivered", "", "m1")]
    raw.close()


async def test_cursors_only_go_forward_and_with_their_message(store: Store) -> None:
    inbox, cursors = Inbox(store), Cursors(store)
    assert await cursors.get("bot", "updates") is None
    await inbox.add("bot", message("1"), ("updates", 10))
    await inbox.add("bot", message("0"), ("updates", 7))
    await inbox.add("bot", message("1"), ("updates", 11))  # seen before, and still taken in
    await cursors.advance("bot", "room", 2**62)
    await cursors.advance("bot", "room", 5)
    assert await cursors.all("bot") == {"updates": 11, "room": 2**62}
    assert await cursors.all("other") == {}


async def test_an_answer_in_the_outbox_ends_the_message_in_the_inbox(store: Store) -> None:
    inbox, outbox = Inbox(store), Outbox(store)
    item = await inbox.add("bot", message())
    assert item is not None
    new = [
        NewOutboxMessage("edit", "m1", "{}"),
        NewOutboxMessage("send", content="{}", reply_to="1"),
        NewOutboxMessage("delete", "m2"),
    ]
    rows = await outbox.put("bot", "room", new, language="zh", inbox_id=item.id)
    assert await inbox.open("bot") == []
    assert [(each.kind, each.target, each.reply_to, each.state) for each in rows] == [
        ("edit", "m1", None, "pending"),
        ("send", "", "1", "pending"),
        ("delete", "m2", None, "pending"),
    ]
    assert len({row.nonce for row in rows}) == 3
    assert max(len(row.nonce) for row in rows) <= 25
    await outbox.attempting(rows[0].id, "send", "")
    await outbox.pending(rows[1].id, "down", doubtful=True)
    await outbox.delivered(rows[2].id, "")
    first, second = await outbox.open("bot")
    assert (first.state, first.kind, first.target, first.attempts, first.doubtful) == (
        "attempting",
        "send",
        "",
        1,
        False,
    )
    assert (second.state, second.error, second.doubtful, second.language) == ("pending", "down", True, "zh")
    assert await outbox.open("other bot") == []


async def test_a_nonce_stays_through_all_tries_of_a_message_and_is_no_other_ones(store: Store) -> None:
    outbox = Outbox(store)
    tried, fresh, edit = await outbox.put(
        "bot", "room", [NewOutboxMessage("send", "n7"), NewOutboxMessage("send"), NewOutboxMessage("edit", "m1")]
    )
    assert tried.nonce == "n7"
    assert edit.nonce not in ("m1", fresh.nonce)
    await outbox.attempting(fresh.id, "send", fresh.nonce)
    assert fresh.nonce in [row.nonce for row in await outbox.open("bot")]


async def test_a_message_that_was_delivered_is_known_by_its_id_in_the_chat(store: Store) -> None:
    outbox, index = Outbox(store), MessageIndex(store)
    talk = await store.conversation("bot", "key")
    first = await store.append(talk.id, "user", "hi", parent=None)
    second = await store.append(talk.id, "assistant", "hello", parent=first.id)
    shows, silent = await outbox.put(
        "bot", "room", [NewOutboxMessage("send", node=second.id), NewOutboxMessage("delete", "m", node=second.id)]
    )
    await outbox.delivered(shows.id, "m7")
    await outbox.delivered(silent.id, "")
    found = await index.find("bot", "room", "m7")
    assert found is not None
    assert (found.key, found.node) == ("key", second.id)
    assert await index.find("bot", "room", "") is None


async def test_what_can_not_be_read_is_out_of_the_outbox_and_in_the_queue(store: Store) -> None:
    outbox = Outbox(store)
    first, second = await outbox.put("bot", "room", [NewOutboxMessage("send"), NewOutboxMessage("send")])
    await outbox.put_aside(first.id, "it is no message")
    assert [row.id for row in await outbox.open("bot")] == [second.id]
    (entry,) = [entry for entry in await Queue(store).entries() if entry.given_up]
    assert (entry.state, entry.error) == ("damaged", "it is no message")


async def test_the_queue_lists_retries_and_drops(store: Store) -> None:
    inbox, outbox, queue = Inbox(store), Outbox(store), Queue(store)
    for id in "123":
        await inbox.add("bot", message(id, f"text {id}"))
    await inbox.dead_letter(1, "it ended the program 3 times")
    await inbox.finish(2)
    await outbox.put(
        "bot", "room", [NewOutboxMessage("send", content='{"text": "one"}'), NewOutboxMessage("delete", "m")]
    )
    await outbox.failed(1, "blocked", doubtful=True)
    entries = {entry.id: entry for entry in await queue.entries()}
    assert entries.keys() == {"in-1", "in-3", "out-1", "out-2"}
    assert {id for id, entry in entries.items() if entry.given_up} == {"in-1", "out-1"}
    assert (entries["out-1"].text, entries["out-1"].error, entries["in-3"].text) == ("one", "blocked", "text 3")
    await queue.retry("in-1")
    await queue.retry("out-1")
    assert [item.id for item in await inbox.open("bot")] == [1, 3]
    assert (await outbox.open("bot"))[0].doubtful  # what may have been delivered is still marked
    for id in ("in-1", "in-3", "out-1", "out-2"):
        await queue.drop(id)
    assert await queue.entries() == []
    assert await inbox.add("bot", message("1")) is None
    for bad in ("in-1", "in-99", "out", "7", "in-x", "x-1", ""):
        with pytest.raises(StoreError, match=r"nothing to be done|no entry"):
            await queue.retry(bad)


async def test_the_answer_that_a_conversation_holds_is_found(store: Store) -> None:
    index = MessageIndex(store)
    talk = await store.conversation("bot", "room")
    asked = await store.append(talk.id, "user", "hi", parent=None, service_id="1", channel="room")
    assert await index.kept_answer("bot", "room", "1") is None
    answer = await store.append(talk.id, "assistant", "hello", parent=asked.id, partial=True)
    kept = await index.kept_answer("bot", "room", "1")
    assert kept is not None
    assert (kept.text, kept.partial, kept.latest) == ("hello", True, True)
    await store.append(talk.id, "user", "and", parent=answer.id, service_id="2")
    kept = await index.kept_answer("bot", "room", "1")
    assert kept is not None
    assert not kept.latest
    await store.start("bot", "room")
    assert await index.kept_answer("bot", "room", "1") is None


async def test_a_store_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.executescript(MIGRATIONS[0])
        old.execute("PRAGMA user_version = 1")
        old.execute("INSERT INTO conversations (bot, channel, created) VALUES ('bot', 'room', 1.0)")
    old.close()
    store = await Store.open(tmp_path / "old.db")
    try:
        assert (await store.conversation("bot", "room")).id == 1
        assert await Inbox(store).add("bot", message()) is not None
    finally:
        await store.aclose()


@settings(deadline=None)  # a busy machine may take its time
@given(st.text(), st.text(), st.binary(max_size=20), st.booleans())
async def test_whatever_is_said_comes_back(
    tmp_path_factory: pytest.TempPathFactory, text: str, name: str, data: bytes, flag: bool
) -> None:
    store = await Store.open(tmp_path_factory.mktemp("box") / "test.db")
    try:
        came = Message(
            "1", ROOM, Author(name, name, flag), text, 1.25, flag, None, (Attachment(name, "x/y", data),), "en"
        )
        item = await Inbox(store).add("bot", came)
        assert item is not None
        assert item.asked == came
        assert [each.asked for each in await Inbox(store).open("bot")] == [came]
    finally:
        await store.aclose()


_PROGRAM = """
import asyncio, sys
from itertools import count
from pathlib import Path
from chatbridge.store import Cursors, Inbox, NewOutboxMessage, Outbox, Store
from chatbridge.types import Author, Channel, Message

async def main():
    store = await Store.open(Path(sys.argv[1]))
    inbox, outbox = Inbox(store), Outbox(store)
    for i in count((await Cursors(store).get("bot", "updates") or 0) + 1):
        message = Message(str(i), Channel("room"), Author("a", "A"), f"text {i}")
        item = await inbox.add("bot", message, ("updates", i))
        print("added", i, flush=True)
        await inbox.begin(item.id)
        print("begun", i, flush=True)
        answer = [NewOutboxMessage("send", content="{}"), NewOutboxMessage("send", content="{}")]
        await outbox.put("bot", "room", answer, inbox_id=item.id)
        print("put", i, flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_kill_minus_nine_leaves_each_message_in_inbox_or_outbox(tmp_path: Path, scale: int) -> None:
    with ThreadPoolExecutor(2) as side_by_side:
        list(side_by_side.map(lambda number: _live(tmp_path / f"{number}.db", 4 * scale, seed=number), range(2)))


def _live(path: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    told: dict[int, str] = {}
    for _ in range(kills):
        program = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(path)], stdout=subprocess.PIPE, text=True)
        assert program.stdout is not None
        lines = [program.stdout.readline() for _ in range(chance.randrange(1, 100))]
        program.send_signal(signal.SIGKILL)
        lines += [line for line in program.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        program.wait()
        program.stdout.close()
        told |= {int(number): what for what, number in (line.split() for line in lines)}
    asyncio.run(_each_is_somewhere(path, told))


async def _each_is_somewhere(path: Path, told: dict[int, str]) -> None:
    store = await Store.open(path)
    try:
        waiting = {int(item.service_id): item for item in await Inbox(store).open("bot")}
        answered: dict[int, int] = {}
        for sent in await Outbox(store).open("bot"):
            assert sent.inbox_id is not None
            answered[sent.inbox_id] = answered.get(sent.inbox_id, 0) + 1
        cursor = await Cursors(store).get("bot", "updates") or 0
    finally:
        await store.aclose()
    assert set(answered.values()) == {2}, "an answer is put there whole"
    ids = {int(item.service_id): item.id for item in waiting.values()}
    assert len(waiting) + len(answered) == cursor
    assert not set(ids.values()) & set(answered)
    for number, what in told.items():
        assert number <= cursor
        if what == "put":
            assert number not in waiting
        elif what == "begun" and number in waiting:
            assert waiting[number].attempts >= 1
