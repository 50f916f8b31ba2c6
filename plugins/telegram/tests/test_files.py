"""What comes along with messages: text files are read, within limits; of pictures and sound the bot says it can't."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.testing import ScriptedBackend, TelegramServer, channel_settings
from chatbridge.testing.wire.forms import Upload

from .conftest import talking


@pytest.mark.parametrize(
    ("name", "kind", "content"),
    [
        ("notes.txt", "text/plain", b"two\nlines"),
        ("main.py", "text/x-python", b"two\nlines"),
        ("data.json", "application/json", b"two\nlines"),
        ("notes.md", "application/octet-stream", b"\xef\xbb\xbftwo\nlines"),
    ],
)
async def test_text_is_read(roomy: TelegramServer, tmp_path: Path, name: str, kind: str, content: bytes) -> None:
    backend = ScriptedBackend("Read.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.private(), "look", file=Upload(name, content, kind))
        assert (await roomy.next_answer()).text == "Read."
    assert backend.requests[0].turns[-1].text == f"look\n\n[{name}]\ntwo\nlines"


async def test_text_of_older_chinese_programs_is_read(roomy: TelegramServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Read.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.private(), file=Upload("笔记.txt", "你好，世界".encode("gbk"), "text/plain"))
        await roomy.next_answer()
    assert backend.requests[0].turns[-1].text == "[笔记.txt]\n你好，世界"


@pytest.mark.parametrize(
    ("kind", "file", "words"),
    [
        ("photo", Upload("p.jpg", b"jpg", "image/jpeg"), "pictures"),
        ("document", Upload("p.png", b"png", "image/png"), "pictures"),
        ("voice", Upload("v.ogg", b"ogg", "audio/ogg"), "sound"),
        ("audio", Upload("song.mp3", b"mp3", "audio/mpeg"), "sound"),
        ("video", Upload("v.mp4", b"mp4", "video/mp4"), "text files only"),
        ("document", Upload("a.zip", b"PK", "application/zip"), "text files only"),
        ("document", Upload("a.txt", b"\0\1", "text/plain"), "text files only"),
        ("document", Upload("big.txt", b"x" * 2049, "text/plain"), "2 KiB at most"),
    ],
)
async def test_what_can_not_be_read_is_refused_in_words(
    roomy: TelegramServer, tmp_path: Path, kind: str, file: Upload, words: str
) -> None:
    backend = ScriptedBackend("I see its name.")
    async with talking(roomy, backend, tmp_path, max_file_kib=2):
        await roomy.say(roomy.private(), file=file, kind=kind)
        assert words in (await roomy.next_answer()).text
        assert backend.requests == []
        await roomy.say(roomy.private(), "with words", file=file, kind=kind)
        answer = (await roomy.next_answer()).text
        assert answer == f"(I can't read {name_of(file, kind)}, only text files.)\n\nI see its name."
    text = backend.requests[0].turns[-1].text
    assert text.startswith("with words\n\n[")
    assert len(text) < 100


def name_of(file: Upload, kind: str) -> str:
    """What the bot calls a file: Telegram keeps no names of photos, voice messages and videos."""
    return {"photo": "photo.jpg", "voice": "voice.ogg", "video": "video.mp4"}.get(kind, file.name)


async def test_the_words_are_in_the_person_s_language(roomy: TelegramServer, tmp_path: Path) -> None:
    roomy.person.language = "zh-hans"
    async with talking(roomy, ScriptedBackend(""), tmp_path, defaults=channel_settings(language="auto")):
        await roomy.say(roomy.private(), file=Upload("v.ogg", b"ogg", "audio/ogg"), kind="voice")
        assert "语音" in (await roomy.next_answer()).text


async def test_a_file_that_can_not_be_fetched_is_asked_for_again(roomy: TelegramServer, tmp_path: Path) -> None:
    roomy.faults.error("file", 502)
    backend = ScriptedBackend("Read.")
    async with talking(roomy, backend, tmp_path):
        file = Upload("a.txt", b"content", "text/plain")
        await roomy.say(roomy.private(), file=file)
        assert "send it again" in (await roomy.next_answer()).text
        await roomy.say(roomy.private(), file=file)
        assert (await roomy.next_answer()).text == "Read."


async def test_a_picture_among_people_is_left_alone(roomy: TelegramServer, tmp_path: Path) -> None:
    group, backend = roomy.add_group("Club"), ScriptedBackend("Yes.")
    roomy.bot.privacy = False
    async with talking(roomy, backend, tmp_path):  # where every message is answered
        await roomy.say(group, file=Upload("p.jpg", b"jpg", "image/jpeg"), kind="photo")
        await roomy.say(group, "hello")
        assert (await roomy.next_answer(group)).text == "Yes.", "an answer to hello, and to nothing before"
    assert len(backend.requests) == 1


async def test_files_that_are_not_for_the_bot_are_not_fetched(roomy: TelegramServer, tmp_path: Path) -> None:
    group = roomy.add_group("Club")
    roomy.bot.privacy = False
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=channel_settings(reply_to="mentions")):
        await roomy.say(group, "look", file=Upload("a.txt", b"content", "text/plain"))
        await roomy.say(group, file=Upload("v.ogg", b"ogg", "audio/ogg"), kind="voice")
        await roomy.say(group, "hello", mention=True)
        await roomy.next_answer(group)
        assert len(roomy.messages(group)) == 1
    assert roomy.calls.to("getFile") == []


@pytest.mark.parametrize("trigger", [{"prefix": "!"}, {"pattern": "look"}, {"chance": 1.0}])
async def test_a_file_is_read_whatever_calls_the_bot(
    roomy: TelegramServer, tmp_path: Path, trigger: dict[str, object]
) -> None:
    backend, file = ScriptedBackend("Read."), Upload("a.txt", b"content", "text/plain")
    group = roomy.add_group("Club")
    roomy.bot.privacy = False
    async with talking(roomy, backend, tmp_path, defaults=channel_settings(reply_to="mentions", **trigger)):
        await roomy.say(group, "!look at this", file=file)
        assert (await roomy.next_answer(group)).text == "Read."
    assert backend.requests[0].turns[-1].text.endswith("look at this\n\n[a.txt]\ncontent")


async def test_a_file_that_comes_slowly_keeps_no_other_chat_waiting(roomy: TelegramServer, tmp_path: Path) -> None:
    bob = roomy.add_person("Bob")
    roomy.faults.slow("getFile", 60.0)
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.private(), "look", file=Upload("a.txt", b"content", "text/plain"))
        await roomy.say(roomy.private(bob), "hello", author=bob)
        assert (await roomy.next_answer(roomy.private(bob))).text == "Yes."
        assert roomy.messages(roomy.private()) == [], "it is answered once its file is there"


async def test_a_message_whose_file_was_coming_is_answered_after_a_restart(
    roomy: TelegramServer, tmp_path: Path
) -> None:
    roomy.faults.slow("getFile", 60.0)
    async with talking(roomy, ScriptedBackend("Never."), tmp_path):
        await roomy.say(roomy.private(), "look", file=Upload("a.txt", b"content", "text/plain"))
        await roomy.until(lambda: roomy.calls.to("getFile") or None)
    backend = ScriptedBackend("Read.")
    async with talking(roomy, backend, tmp_path):
        assert (await roomy.next_answer()).text == "Read."
    assert backend.requests[0].turns[-1].text == "look\n\n[a.txt]\ncontent"


async def test_an_edit_of_the_words_beside_a_file_keeps_the_file(roomy: TelegramServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Read.", "Read again.")
    async with talking(roomy, backend, tmp_path):
        asked = await roomy.say(roomy.private(), "look", file=Upload("a.txt", b"two\nlines", "text/plain"))
        answer = await roomy.next_answer()
        await roomy.touch(asked)  # no word of it has changed, and so nothing is offered
        await roomy.edit(asked, "look again")
        offer = await roomy.next_answer()
        await roomy.press(offer, "answer")
        await roomy.until(lambda: offer.text == "Read again." or None, what="the answer")
        assert list(roomy.private().messages.values()) == [asked, answer, offer]
    assert backend.requests[1].turns[-1].text == "look again\n\n[a.txt]\ntwo\nlines"
