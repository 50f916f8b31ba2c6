"""The files that come with messages: fetched for what is answered and for nothing else, and what of them is read."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from chatbridge import Author, Bot, BotSettings, Channel, ChannelSettings, Message, Notice, Options, RemoteFile
from chatbridge.bots.attachments import fetch_files
from chatbridge.testing import ScriptedBackend, bridge_with, scripted

ANN, ROBOT = Author("a", "Ann"), Author("r", "Robot", is_bot=True)
GROUP = Channel("g", kind="group")


class Held:
    """A file at the chat service, which knows whether it was fetched."""

    def __init__(self, name: str = "a.txt", kind: str = "text/plain", data: bytes | None = b"words") -> None:
        self.fetched = 0
        self._data = data
        self.remote = RemoteFile(name, kind, len(data or b""), self._fetch)

    async def _fetch(self) -> bytes | None:
        self.fetched += 1
        return self._data


async def brought(bot: Bot, message: Message, *files: Held) -> Message | None:
    return await bot.bring_files(message, [file.remote for file in files], max_kib=1, service="Chat")


CHANNELS = st.fixed_dictionaries(
    {
        "reply_to": st.sampled_from(["always", "mentions", "never"]),
        "replies": st.booleans(),
        "prefix": st.sampled_from(["", "!"]),
        "pattern": st.sampled_from([None, "bridge"]),
        "chance": st.sampled_from([0.0, 0.5, 1.0]),
        "private": st.booleans(),
        "other_bots": st.sampled_from(["ignore", "mentions", "answer"]),
    }
)
MESSAGES = st.fixed_dictionaries(
    {
        "text": st.sampled_from(["", "look", "!", "!look", "the bridge", "/help", "/nonsense", "/regenerate"]),
        "author": st.sampled_from([ANN, ROBOT]),
        "mentions_bot": st.booleans(),
        "replies_to_bot": st.booleans(),
    }
)


@tried(max_examples=30, deadline=None)
@given(st.lists(st.tuples(CHANNELS, MESSAGES, st.sampled_from(["group", "private"])), min_size=20, max_size=20))
def test_whatever_is_answered_was_allowed_to_bring_its_files(cases: list[tuple[Any, Any, Any]]) -> None:
    channels = {str(number): ChannelSettings(**own) for number, (own, _, _) in enumerate(cases)}

    async def ask(folder: str) -> None:
        bots = [BotSettings("bot", "none", Options(), channels=channels)]
        async with bridge_with(scripted(ScriptedBackend("Yes.")), Path(folder) / "db", bots=bots) as bridge:
            bot = bridge.bot("bot")
            for number, (_, about, kind) in enumerate(cases):
                file = Held()
                message = Message(str(number), Channel(str(number), kind=kind), **about)
                coming = await brought(bot, message, file)
                if message.text.startswith("/"):
                    continue
                answer = await bot.receive(coming) if coming is not None else None
                assert (answer is not None) == bool(file.fetched), (channels[str(number)], message)
                assert answer is None or (coming is not None and coming.attachments[0].data == b"words")

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(ask(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "db"


async def test_a_decision_is_made_once_and_goes_along_with_the_message(folder: Path) -> None:
    defaults = ChannelSettings(chance=0.5)
    async with bridge_with(scripted(ScriptedBackend("Yes.")), folder, defaults=defaults) as bridge:
        bot = bridge.bot("bot")
        for number in range(50):
            decided = await bot.decide(Message(str(number), GROUP, ANN, "hello"))
            assert (await bot.decide(decided)).wanted == decided.wanted
            for _ in range(3):
                assert (await bot.receive(decided) is not None) == decided.wanted


async def test_a_reply_to_what_the_bot_remembers_may_bring_files(folder: Path) -> None:
    async with bridge_with(scripted(ScriptedBackend("Yes.")), folder, defaults=ChannelSettings()) as bridge:
        bot, file = bridge.bot("bot"), Held()
        first = await bot.receive(Message("1", GROUP, ANN, "hello", mentions_bot=True))
        _ = [chunk async for chunk in first]  # type: ignore[union-attr]
        await bot.message_index.note("bot", "g", "2", first.node)  # type: ignore[union-attr,arg-type]
        coming = await brought(bot, Message("3", GROUP, ANN, "and this?", reply_to="2"), file)
        assert (file.fetched, coming is not None and coming.wanted) == (1, True)


async def test_the_files_of_a_command_are_fetched(folder: Path) -> None:
    async with bridge_with(scripted(ScriptedBackend("Yes.")), folder, defaults=ChannelSettings()) as bridge:
        ours, another = Held(), Held()
        await brought(bridge.bot("bot"), Message("1", GROUP, ANN, "/help"), ours)
        await brought(bridge.bot("bot"), Message("2", GROUP, ANN, "/of_another_bot"), another)
        assert (ours.fetched, another.fetched) == (1, 0)


PICTURE = Held("p.png", "image/png")


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"mentions_bot": True}, "pictures"),
        ({"channel": Channel("p")}, "pictures"),
        ({}, None),
        ({"mentions_bot": True, "author": ROBOT}, None),
    ],
)
async def test_only_who_means_the_bot_is_told_what_it_can_not_read(
    folder: Path, about: dict[str, Any], told: str | None
) -> None:
    defaults = ChannelSettings(reply_to="always", other_bots="answer", language="en")
    async with bridge_with(scripted(ScriptedBackend("Yes.")), folder, defaults=defaults) as bridge:
        coming = await brought(bridge.bot("bot"), replace(Message("1", GROUP, ANN, ""), **about), PICTURE)
        if told is None:
            assert coming is None
            return
        assert coming is not None
        answer = await bridge.bot("bot").receive(coming)
        assert isinstance(answer, Notice)
        assert told in answer.text


@pytest.mark.parametrize(
    ("file", "read", "why"),
    [
        (Held(), "words", ""),
        (Held("a.py", "text/x-python; charset=utf-8"), "words", ""),
        (Held("a.json", "application/json"), "words", ""),
        (Held("a.md", "application/octet-stream", b"\xef\xbb\xbfwords"), "words", ""),
        (Held("a.md", "", b"words"), "words", ""),
        (Held("a.txt", "text/plain", "汉字".encode("gbk")), "汉字", ""),
        (Held("a.txt", "text/plain", b"\0"), "", "file_unread"),
        (Held("a.txt", "text/plain", b"x" * 1024), "x" * 1024, ""),
        (Held("a.txt", "text/plain", b"x" * 1025), "", "file_too_big"),
        (Held("a.txt", "text/plain", None), "", "file_lost"),
        (Held("a.zip", "application/zip"), "", "file_unread"),
        (Held("a.png", "image/png"), "", "picture_unread"),
        (Held("a.ogg", "audio/ogg"), "", "sound_unread"),
    ],
    ids=lambda value: value.remote.name if isinstance(value, Held) else None,
)
async def test_what_of_a_file_is_read(file: Held, read: str, why: str) -> None:
    (attachment,), reasons = await fetch_files([file.remote], 1024)
    assert (attachment.name, attachment.data.decode(), reasons) == (file.remote.name, read, (why,) if why else ())
    assert not attachment.media_type.startswith("text/") or read
