"""The files that come with messages: fetched for what is answered and for nothing else, and what of them is read."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from chatbridge import (
    Attachment,
    Author,
    Bot,
    BotSettings,
    Channel,
    ChannelSettings,
    Message,
    Notice,
    Options,
    RemoteFile,
)
from chatbridge.bots.attachments import Downloads, bounded, is_short, within
from chatbridge.testing import ScriptedBackend, bridge_with, scripted

ANN, ROBOT = Author("a", "Ann"), Author("r", "Robot", is_bot=True)
GROUP = Channel("g", kind="group")


class Held:
    """A file at the chat service, which knows whether it was fetched."""

    def __init__(self, name: str = "a.txt", kind: str = "text/plain", data: bytes | None = b"words") -> None:
        self.fetched = 0
        self._data = data
        self.remote = RemoteFile(name, kind, len(data or b""), name)

    async def fetch(self) -> bytes | None:
        self.fetched += 1
        return self._data


def downloads_of(*files: Held, max_kib: int = 1, seconds: float = 30.0) -> Downloads:
    by_source = {file.remote.source: file for file in files}

    async def fetch(source: str, max_bytes: int) -> bytes | None:
        return await by_source[source].fetch()

    return Downloads("Chat", fetch, max_kib=max_kib, seconds=seconds)


async def brought(bot: Bot, message: Message, *files: Held, max_kib: int = 1) -> Message | None:
    """The message once its files were fetched, as delivery does that for those that are stored."""
    downloads = downloads_of(*files, max_kib=max_kib)
    coming = await bot.bring_files(message, [file.remote for file in files], downloads)
    return coming and await bot.fetch_files(coming, downloads)


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
    downloads = downloads_of(file)
    announced, reasons = downloads.announced([file.remote])
    if not reasons:
        announced, reasons = await downloads.fetched(announced)
    (attachment,) = announced
    assert (attachment.name, attachment.data.decode(), reasons) == (file.remote.name, read, (why,) if why else ())
    assert not attachment.media_type.startswith("text/") or read


async def test_what_the_service_says_of_a_size_is_not_believed() -> None:
    file = Held(data=b"x" * 1025)
    small = replace(file.remote, size=10)
    announced, _ = downloads_of(file).announced([small])
    (attachment,), reasons = await downloads_of(file).fetched(announced)
    assert (attachment.data, reasons) == (b"", ("file_too_big",))


async def test_a_file_that_does_not_come_is_given_up() -> None:
    async def never(source: str, max_bytes: int) -> bytes | None:
        return await asyncio.Event().wait() and None

    downloads = Downloads("Chat", never, seconds=0.01)
    announced, _ = downloads.announced([Held().remote])
    (attachment,), reasons = await downloads.fetched(announced)
    assert (attachment.data, attachment.source, reasons) == (b"", "", ("file_lost",))


async def test_of_files_that_do_not_come_in_time_no_other_is_lost() -> None:
    async def fetch(source: str, max_bytes: int) -> bytes | None:
        return await asyncio.Event().wait() and None

    downloads = Downloads("Chat", fetch, seconds=0.01)
    here = Attachment("here.txt", "text/plain", b"words")
    announced, _ = downloads.announced([Held("slow.txt").remote, Held("next.txt").remote])
    found, reasons = await downloads.fetched([here, *announced, here])
    lost = [Attachment(name, "application/octet-stream", b"") for name in ("slow.txt", "next.txt")]
    assert found == (here, *lost, here)
    assert reasons == ("file_lost",)


async def test_more_files_than_are_read_are_told_of() -> None:
    files = [Held(f"{number}.txt") for number in range(12)]
    announced, reasons = downloads_of(*files).announced([file.remote for file in files])
    assert [bool(file.source) for file in announced] == [True] * 10 + [False] * 2
    assert reasons == ("too_many_files",)


async def test_of_a_long_file_the_beginning_is_read_and_both_sides_know(folder: Path) -> None:
    backend, text = ScriptedBackend("Read."), "汉字 " * 1000
    defaults = ChannelSettings(max_text=2, language="en")
    async with bridge_with(scripted(backend), folder, defaults=defaults) as bridge:
        bot = bridge.bot("bot")
        message = Message("1", Channel("p"), ANN, "look", quoted="before")
        coming = await brought(bot, message, Held("a.txt", data=text.encode()), max_kib=9)
        assert coming is not None
        reply = await bot.receive(coming)
        _ = [chunk async for chunk in reply]  # type: ignore[union-attr]
        assert list(reply.notices) == [  # type: ignore[union-attr]
            "(I read only the beginning of a.txt (the first 2 of 7 KiB).)"
        ]
    read = backend.requests[0].turns[-1].text
    assert "[a.txt, the first 2 of 7 KiB]\n汉字" in read
    assert len(read.encode()) < 2300
    assert "\ufffd" not in read


@pytest.mark.parametrize("before", ["", "/edit ", "/system "])
async def test_words_that_are_too_long_are_refused_in_words(folder: Path, before: str) -> None:
    backend = ScriptedBackend("Read.")
    defaults = ChannelSettings(max_text=1, language="en")
    async with bridge_with(scripted(backend), folder, defaults=defaults) as bridge:
        bot = bridge.bot("bot")
        message = Message("1", Channel("p"), ANN, before + "汉" * 400)
        answer = await bot.receive(bot.bounded(message))
        assert isinstance(answer, Notice)
        assert "2 KiB" in answer.text
        assert "1 KiB at most" in answer.text
        assert await bot.dialogue(Channel("p")).path() == []


NAMES = st.text(max_size=200) | st.integers(254, 258).map(lambda length: "é" * length)


@given(st.text(max_size=3000), st.text(max_size=3000), st.lists(st.text(max_size=3000), max_size=3), NAMES)
@example("", "", [""], "é" * 256)
@example("", "", [""], "é" * 257)
def test_no_more_than_the_limit_is_ever_stored(text: str, quoted: str, files: list[str], name: str) -> None:
    attachments = tuple(Attachment(name, "text/plain", file.encode("utf-8", "replace")) for file in files)
    message = Message("1", Channel("p", name), Author("a", name), text, quoted=quoted, attachments=attachments)
    kept = within(message, 2)
    read = len(kept.quoted.encode("utf-8", "replace")) + sum(len(file.data) for file in kept.attachments)
    assert read <= max(0, 2048 - len(text.encode("utf-8", "replace"))) + len(" […]".encode())
    shown = name if len(name) <= 256 else name[:255] + "…"
    assert {kept.author.name, kept.channel.name, *(file.name for file in kept.attachments)} == {shown}
    assert within(kept, 2) == kept or kept.quoted.endswith("[…]")
    for file, whole in zip(kept.attachments, attachments, strict=True):
        assert whole.data.startswith(file.data)
        assert file.size == (0 if file.data == whole.data else len(whole.data))


def test_to_the_byte_so_much_is_read_as_there_is_room_for() -> None:
    files = tuple(Attachment(f"{n}.txt", "text/plain", b"x" * 900) for n in "12")
    message = Message("1", Channel("p"), ANN, "w" * 100, quoted="q" * 24, attachments=files)
    kept = within(message, 1)
    assert (kept.quoted, [len(file.data) for file in kept.attachments]) == ("q" * 24, [900, 0])
    assert [file.size for file in kept.attachments] == [0, 900]
    assert within(replace(message, quoted="q" * 1000), 1).quoted == "q" * 924 + " […]"
    full = within(replace(message, text="w" * 2000), 1)
    assert (full.quoted, [file.data for file in full.attachments]) == (" […]", [b"", b""])
    picture = Attachment("p.png", "image/png", b"x" * 5000)
    assert within(replace(message, attachments=(picture,)), 1).attachments == (picture,), "no model reads it"
    again = within(replace(kept, attachments=(replace(files[0], data=b"x" * 50, size=7000),)), 1)
    assert again.attachments[0].size == 7000, "how long it was is known"


@pytest.mark.parametrize(("size", "refused"), [(1024, False), (1025, True)])
def test_words_are_refused_from_one_byte_too_many_on(size: int, refused: bool) -> None:
    message = bounded(
        Message("1", Channel("p"), ANN, "x" * size, attachments=(Attachment("f", "text/plain", b""),)), 1, "en"
    )
    assert bool(message.unreadable) is refused
    assert (len(message.text), len(message.attachments)) == ((256, 0) if refused else (size, 1))
    if refused:
        assert "2 KiB" in message.unreadable, "rounded up"


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (Message("1", Channel("p"), ANN, "x" * 256), True),
        (Message("1", Channel("p"), ANN, "x" * 257), False),
        (Message("1", Channel("p"), ANN, "x" * 200, quoted="y" * 57), False),
        (Message("1", Channel("p"), ANN, "x" * 200, attachments=(Attachment("f", "", b"y" * 57),)), False),
        (Message("1", Channel("p", "n" * 257), ANN, ""), False),
        (Message("1", Channel("p", "n" * 256), ANN, ""), True),
        (Message("1", Channel("p"), Author("a", "n" * 257), ""), False),
        (Message("1", Channel("p"), ANN, "", attachments=(Attachment("n" * 257, "", b""),)), False),
    ],
)
def test_what_can_be_too_long_for_no_setting_is_short(message: Message, short: bool) -> None:
    assert is_short(message) is short


@pytest.mark.parametrize(("size", "why"), [(1024, ()), (1025, ("file_too_big",))])
def test_what_the_service_says_of_a_large_file_is_believed(size: int, why: tuple[str, ...]) -> None:
    (file,), reasons = downloads_of().announced([RemoteFile("a.txt", "text/plain", size, "there")])
    assert (file.source, reasons) == ("" if why else "there", why)


async def test_a_file_is_asked_for_up_to_one_size_and_told_by_its_own_kind() -> None:
    asked: list[int] = []

    async def fetch(source: str, max_bytes: int) -> bytes:
        asked.append(max_bytes)
        return b"{}"

    downloads = Downloads("Chat", fetch, max_kib=3)
    announced, _ = downloads.announced([RemoteFile("a.json", "application/json", 2, "there"), Held().remote])
    (json, text), _ = await downloads.fetched(announced)
    assert asked == [3072, 3072]
    assert (json.media_type, text.media_type) == ("text/plain", "text/plain")


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("a.md", "", True),
        ("A.LOG", "application/octet-stream", True),
        ("a.bin", "", False),
        ("a.py", "", True),
        ("a.py", "application/octet-stream", True),
        ("a", "application/octet-stream", False),
        ("a.md", "image/png", False),
        ("a", "application/x-yaml", True),
        ("a", "text/odd; charset=x", True),
    ],
)
def test_a_file_is_text_by_its_kind_or_else_by_its_name(name: str, kind: str, text: bool) -> None:
    (file,), reasons = downloads_of().announced([RemoteFile(name, kind, 1, "there")])
    assert (bool(file.source), reasons) == (text, () if text else reasons)
