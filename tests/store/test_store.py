"""The store against a simple model in memory, its errors in words, and its promise to survive `kill -9`."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge.errors import StoreError
from chatbridge.store import Store
from chatbridge.store.schema import MIGRATIONS
from chatbridge.types import Reply


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "test.db")
    yield store
    await store.aclose()


async def test_what_moves_to_a_channel_that_has_a_conversation_is_an_earlier_one_there(store: Store) -> None:
    old, new = await store.conversation("bot", "old"), await store.conversation("bot", "new")
    other = await store.conversation("another bot", "old")
    said = await store.append(old.id, "user", "hi", parent=None, service_id="1")
    await store.move("bot", lambda channel: "new" if channel == "old" else channel)
    assert (await store.conversation("bot", "new")).id == new.id
    assert {one.id for one in await store.conversations("bot", "new")} == {old.id, new.id}
    assert (await store.conversation("another bot", "old")).id == other.id
    again = await store.append(old.id, "user", "another", parent=said.id, service_id="1")
    assert again.id != said.id, "where it goes on, another message has that id"


async def test_regenerate_edit_and_undo_lose_nothing(store: Store) -> None:
    talk = await store.conversation("bot", "room")
    first = await store.append(talk.id, "user", "hi", parent=None, name="Ann")
    one = await store.append(talk.id, "assistant", "hello", parent=first.id, reply=Reply("hello", (5, 6), "x", "v"))
    other = await store.append(talk.id, "assistant", "good day", parent=first.id)
    edited = await store.append(talk.id, "user", "hi there", parent=None)
    assert [node.text for node in await store.path(talk.id)] == ["hi there"]
    assert [node.id for node in await store.leaves(talk.id)] == [one.id, other.id, edited.id]
    await store.set_head(talk.id, one.id)
    path = await store.path(talk.id)
    assert [(node.role, node.text, node.name) for node in path] == [
        ("user", "hi", "Ann"),
        ("assistant", "hello", ""),
    ]
    assert path[1].reply == Reply("hello", (5, 6), "x", "v")
    await store.set_head(talk.id, None)
    assert await store.path(talk.id) == []
    assert [node.text for node in await store.children(talk.id, None)] == ["hi", "hi there"]


async def test_a_message_seen_before_is_not_added_again(store: Store) -> None:
    talk = await store.conversation("bot", "room")
    node = await store.append(talk.id, "user", "hi", parent=None, service_id="77")
    await store.append(talk.id, "assistant", "hello", parent=node.id)
    again = await store.append(talk.id, "user", "hi", parent=None, service_id="77")
    assert again.id == node.id
    assert [found.text for found in await store.path(talk.id)] == ["hi", "hello"]


async def test_conversations_are_kept_apart_and_come_back(store: Store) -> None:
    old = await store.conversation("bot", "room")
    await store.append(old.id, "user", "how it began", parent=None)
    await store.set_overrides(old.id, {"model": "raven"})
    new = await store.start("bot", "room")
    assert (await store.conversation("bot", "room")).id == new.id
    assert (await store.conversation("bot", "other")).id not in (old.id, new.id)
    found = await store.conversations("bot", "room")
    assert [(talk.id, talk.title) for talk in found] == [(new.id, ""), (old.id, "how it began")]
    again = await store.make_current(old.id)
    assert (again.id, again.title, again.overrides) == (old.id, "how it began", {"model": "raven"})
    assert (await store.conversation("bot", "room")).overrides == {"model": "raven"}


async def test_what_is_said_beside_the_talk_leaves_it_where_it_is(store: Store) -> None:
    talk = await store.conversation("bot", "room")
    first = await store.append(talk.id, "user", "hi", parent=None)
    aside = await store.append(talk.id, "assistant", "hello", parent=first.id, move=False)
    assert (await store.get(talk.id)).head == first.id
    assert [node.id for node in await store.children(talk.id, first.id)] == [aside.id]


async def test_a_copy_is_what_was_said_and_of_whom_it_is(store: Store) -> None:
    talk = await store.conversation("bot", "room")
    rules = await store.append(talk.id, "system", "rules", parent=None, trusted=True)
    asked = await store.append(talk.id, "user", "hi", parent=rules.id, name="Ann", author="a", service_id="1")
    reply = Reply("hello", (5, 6), "x", "v", "well", "<think> </think> ")
    answer = await store.append(talk.id, "assistant", "hello", parent=asked.id, reply=reply, partial=True)
    copied = await store.copy(answer.id, "room/b", "b")
    assert (await store.conversation("bot", "room/b")).head == copied.id
    path = await store.path(copied.conversation)
    assert [(node.role, node.text, node.name, node.author) for node in path] == [
        ("system", "rules", "", ""),
        ("user", "hi", "Ann", "b"),
        ("assistant", "hello", "", ""),
    ]
    assert [node.trusted for node in path] == [True, False, False]
    assert (path[2].reply, path[2].partial, path[1].service_id) == (reply, True, None)
    assert [node.created for node in path] == [node.created for node in (rules, asked, answer)]
    with pytest.raises(StoreError, match="no message 99"):
        await store.copy(99, "room/b", "b")


async def test_nodes_of_another_conversation_are_refused(store: Store) -> None:
    ours, theirs = await store.conversation("bot", "a"), await store.conversation("bot", "b")
    node = await store.append(theirs.id, "user", "hi", parent=None)
    with pytest.raises(StoreError, match=f"has no message {node.id}"):
        await store.append(ours.id, "user", "hi", parent=node.id)
    with pytest.raises(StoreError, match="has no message"):
        await store.set_head(ours.id, node.id)
    with pytest.raises(StoreError, match="has no message"):
        await store.set_trim(ours.id, node.id)
    with pytest.raises(StoreError, match="no conversation 99"):
        await store.append(99, "user", "hi", parent=None)
    with pytest.raises(StoreError, match="no conversation 99"):
        await store.make_current(99)
    with pytest.raises(StoreError, match="no conversation 99"):
        await store.set_overrides(99, {})
    with pytest.raises(StoreError, match="no conversation 99"):
        await store.path(99)


async def test_many_tasks_at_once_lose_nothing(store: Store) -> None:
    async def chat(room: int) -> None:
        talk = await store.conversation("bot", str(room))
        parent = None
        for i in range(10):
            parent = (await store.append(talk.id, "user", f"{room}.{i}", parent=parent)).id

    await asyncio.gather(*(chat(room) for room in range(20)))
    for room in range(20):
        talk = await store.conversation("bot", str(room))
        assert [node.text for node in await store.path(talk.id)] == [f"{room}.{i}" for i in range(10)]


texts = st.text(max_size=20)
replies = st.builds(Reply, texts, st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple), texts, texts)


@settings(deadline=None)  # a busy machine may take its time
@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant"]), texts, st.none() | replies, st.integers(0, 9)),
        max_size=9,
    )
)
async def test_what_is_exported_comes_back(tmp_path_factory: pytest.TempPathFactory, entries: list) -> None:
    store = await Store.open(tmp_path_factory.mktemp("store") / "test.db")
    try:
        talk = await store.conversation("bot", "room")
        ids: list[int | None] = [None]
        for role, text, reply, parent in entries:
            kept = Reply(text, *(reply.tokens, reply.tail, reply.vocabulary)) if reply else None
            node = await store.append(talk.id, role, text, parent=ids[parent % len(ids)], reply=kept)
            ids.append(node.id)
        exported = json.loads(json.dumps(await store.export(talk.id)))
        copy = await store.restore("bot", "elsewhere", exported)
        assert _shape(exported) == _shape(await store.export(copy.id))
        loaded = await store.path(copy.id)
        assert [n.text for n in loaded] == [n.text for n in await store.path(talk.id)]
        assert not any(n.trusted or n.reply for n in loaded), "a file is no witness"
    finally:
        await store.aclose()


def _shape(exported: dict) -> list:
    """An exported tree with positions for ids, which differ between two stores of the same tree."""
    order = {node["id"]: i for i, node in enumerate(exported["nodes"])}
    keys = ("role", "text", "name", "partial", "created")
    nodes = [(order.get(node["parent"]), *(node[key] for key in keys)) for node in exported["nodes"]]
    return [order.get(exported["head"]), exported["overrides"], nodes]


def _saved(**fields: object) -> dict[str, object]:
    return {"id": 1, "parent": None, "role": "user", "text": "hi", "created": 0.0, **fields}


_DAMAGED: list[object] = [
    None,
    [],
    {},
    {"chatbridge": 2},
    {"chatbridge": 1},
    {"chatbridge": 1, "nodes": [{}], "head": 1, "overrides": {}},
    {"chatbridge": 1, "nodes": [], "head": 5, "overrides": {}},
    {"chatbridge": 1, "nodes": 3, "head": None, "overrides": {}},
    *(
        {"chatbridge": 1, "nodes": nodes, "head": None, "overrides": {}}
        for nodes in (
            [_saved(id=1, parent=1)],
            [_saved(id=1, parent=2), _saved(id=2, parent=1)],
            [_saved(id=1), _saved(id=1)],
            [_saved(id=1 << 70)],
            [_saved(id=True)],
            [_saved(role="system")],
            [_saved(text=7)],
            [_saved(created=float("nan"))],
            [_saved(created=1e300)],
            [_saved(name="n" * 1000)],
            [_saved(more="?")],
        )
    ),
]


@pytest.mark.parametrize("damaged", _DAMAGED)
async def test_a_damaged_export_is_refused_whole(store: Store, damaged: object) -> None:
    talk = await store.conversation("bot", "room")
    with pytest.raises(StoreError, match=r"no conversation saved|damaged"):
        await store.restore("bot", "room", damaged)
    assert (await store.conversation("bot", "room")).id == talk.id


async def test_errors_are_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no folder"):
        await Store.open(tmp_path / "missing" / "x.db")
    (tmp_path / "text.db").write_text("this is no database, but it is long enough to look at" * 20)
    with pytest.raises(StoreError, match="no SQLite database"):
        await Store.open(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "new.db") as newer:
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()
    with pytest.raises(StoreError, match="written by a newer chatbridge"):
        await Store.open(tmp_path / "new.db")


_PROGRAM = """
import asyncio, sys
from pathlib import Path
from chatbridge.store import Store
from chatbridge.types import Reply

async def main():
    store = await Store.open(Path(sys.argv[1]))
    talk = await store.conversation("bot", "room")
    parent = talk.head
    for i in range(100000):
        role = "assistant" if i % 2 else "user"
        reply = Reply(f"text {i}", (i,), "", "v") if i % 2 else None
        node = await store.append(talk.id, role, f"text {i}", parent=parent, reply=reply)
        parent = node.id
        print(node.id, flush=True)

asyncio.run(main())
"""


def test_kill_minus_nine_loses_no_committed_message(tmp_path: Path, scale: int) -> None:
    def life(number: int) -> None:
        path = tmp_path / f"{number}.db"
        program = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(path)], stdout=subprocess.PIPE, text=True)
        assert program.stdout is not None
        acknowledged = [int(program.stdout.readline()) for _ in range(random.Random(number).randrange(1, 200))]
        program.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        # What it told before it died counts too: whatever was acknowledged has to be there.
        acknowledged += [int(line) for line in program.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        program.wait()
        program.stdout.close()
        assert asyncio.run(_kept(path))[: len(acknowledged)] == acknowledged
        with sqlite3.connect(path) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()

    with ThreadPoolExecutor(2) as side_by_side:
        list(side_by_side.map(life, range(8 * scale)))


async def _kept(path: Path) -> list[int]:
    store = await Store.open(path)
    try:
        return [node.id for node in await store.path((await store.conversation("bot", "room")).id)]
    finally:
        await store.aclose()
