"""Which message is which node, and what is left of a deleted one."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatbridge.store import MessageIndex, Store
from chatbridge.types import Reply


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "test.db")
    yield store
    await store.aclose()


def rows(folder: Path) -> list[tuple[object, ...]]:
    """Whether each message is removed, and all that is kept of what it said."""
    with sqlite3.connect(folder / "test.db") as raw:
        found = raw.execute("SELECT removed, text, tokens, tail, thoughts FROM nodes").fetchall()
    raw.close()
    return found


async def test_messages_are_found_by_bot_channel_and_id(store: Store) -> None:
    index = MessageIndex(store)
    talk = await store.conversation("bot", "place")
    first = await store.append(talk.id, "user", "one", parent=None, service_id="7", channel="room")
    second = await store.append(talk.id, "assistant", "two", parent=first.id)
    await index.note("bot", "room", "8", second.id)
    found = await index.find("bot", "room", "7")
    assert found is not None
    assert (found.key, found.conversation, found.node, found.role) == ("place", talk.id, first.id, "user")
    latest = await index.latest("bot", "room")
    assert latest is not None
    assert (latest.node, latest.role) == (second.id, "assistant")
    for bot, channel, id in (("bot", "room", "9"), ("bot", "elsewhere", "7"), ("other", "room", "7")):
        assert await index.find(bot, channel, id) is None
        assert not await index.remove(bot, channel, id)
    assert await index.latest("other", "room") is None
    # One that shows something else from now on.
    await index.note("bot", "room", "8", first.id)
    again = await index.find("bot", "room", "8")
    assert again is not None
    assert again.node == first.id


async def test_nothing_is_left_of_a_deleted_message_and_the_answers_to_it(store: Store, tmp_path: Path) -> None:
    index = MessageIndex(store)
    talk = await store.conversation("bot", "room")
    before = await store.append(talk.id, "user", "before", parent=None, service_id="1", channel="room")
    asked = await store.append(talk.id, "user", "secret", parent=before.id, service_id="2", channel="room")
    edited = await store.append(talk.id, "user", "my secret", parent=before.id, service_id="2~1-2", move=False)
    reply = Reply("your secret", (1, 2, 3), "tail", "toy", "a secret thought")
    for parent in (asked, asked, edited):
        answer = await store.append(talk.id, "assistant", reply.text, parent=parent.id, reply=reply)
    after = await store.append(talk.id, "user", "after", parent=answer.id, service_id="22", channel="room")
    assert await index.remove("bot", "room", "2")
    assert [node.text for node in await store.path(talk.id)] == ["before", "after"]
    assert await store.children(talk.id, asked.id) == []
    assert await index.find("bot", "room", "2") is None
    assert await index.remove("bot", "room", "2"), "again, for an answer that came since"
    removed = [row[1:] for row in rows(tmp_path) if row[0]]
    assert removed == [("", None, None, None)] * 5
    assert (await store.node(after.id)).text == "after"


async def test_an_answer_that_ends_after_its_question_was_deleted_is_not_kept(store: Store, tmp_path: Path) -> None:
    index, reply = MessageIndex(store), Reply("your secret", (1, 2, 3), "tail", "toy", "a secret thought")
    talk = await store.conversation("bot", "room")
    before = await store.append(talk.id, "user", "before", parent=None)
    asked = await store.append(talk.id, "user", "secret", parent=before.id, service_id="2", channel="room")
    begun = await store.append(talk.id, "assistant", "your", parent=asked.id, partial=True)
    assert await index.remove("bot", "room", "2")
    await store.append(talk.id, "assistant", reply.text, parent=asked.id, reply=reply)
    await store.update_reply(begun.id, reply.text, reply, partial=False)
    assert [node.text for node in await store.path(talk.id)] == ["before"]
    assert "secret" not in "".join(map(str, rows(tmp_path)))
    await store.append(talk.id, "user", "after", parent=asked.id)
    assert [node.text for node in await store.path(talk.id)] == ["before", "after"]


async def test_an_answer_that_was_deleted_leaves_the_question(store: Store) -> None:
    index = MessageIndex(store)
    talk = await store.conversation("bot", "room")
    asked = await store.append(talk.id, "user", "one", parent=None, service_id="1", channel="room")
    answer = await store.append(talk.id, "assistant", "two", parent=asked.id)
    await index.note("bot", "room", "m", answer.id)
    assert await index.remove("bot", "room", "m")
    assert [node.text for node in await store.path(talk.id)] == ["one"]
    assert [talk.title for talk in await store.conversations("bot", "room")] == ["one"]
