"""What comes along with messages: text files are read, within limits; of pictures and sound the bot says it can't."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.testing import DiscordServer, ScriptedBackend, channel_settings
from chatbridge.testing.wire.forms import Upload

from .conftest import talking


@pytest.mark.parametrize(
    ("name", "kind", "content"),
    [
        ("notes.txt", "text/plain; charset=utf-8", b"two\nlines"),
        ("main.py", "text/x-python", b"two\nlines"),
        ("data.json", "application/json", b"two\nlines"),
        ("notes.md", "application/octet-stream", b"\xef\xbb\xbftwo\nlines"),
        ("笔记.txt", "text/plain", "two\nlines，世界".encode("gbk")),
    ],
)
async def test_text_is_read(roomy: DiscordServer, tmp_path: Path, name: str, kind: str, content: bytes) -> None:
    backend = ScriptedBackend("Read.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, "look", files=[Upload(name, content, kind)])
        await roomy.next_answer()
    assert backend.requests[0].turns[-1].text.startswith(f"look\n\n[{name}]\ntwo\nlines")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (Upload("p.png", b"png", "image/png"), "pictures"),
        (Upload("v.ogg", b"ogg", "audio/ogg"), "sound"),
        (Upload("v.mp4", b"mp4", "video/mp4"), "text files only"),
        (Upload("a.txt", b"\0\1", "text/plain"), "text files only"),
        (Upload("big.txt", b"x" * 2049, "text/plain"), "2 KiB at most"),
    ],
)
async def test_what_can_not_be_read_is_refused_in_words(
    roomy: DiscordServer, tmp_path: Path, file: Upload, words: str
) -> None:
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path, max_file_kib=2):
        asked = await roomy.say(roomy.general, mention=True, files=[file])
        told = await roomy.next_answer()
        assert words in told.text
        assert told.reply_to is asked
        await roomy.say(roomy.general, "what is it?", files=[file])
        await roomy.next_answer()
    assert backend.requests[0].turns[-1].text.startswith("what is it?")
    assert file.name in backend.requests[0].turns[-1].text


async def test_the_words_are_in_the_server_s_language(roomy: DiscordServer, tmp_path: Path) -> None:
    roomy.guild.locale = "zh-CN"
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=channel_settings(language="auto")):
        await roomy.say(roomy.general, mention=True, files=[Upload("p.png", b"png", "image/png")])
        assert "图片" in (await roomy.next_answer()).text


async def test_one_that_can_be_read_among_others_is(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path):
        files = [Upload("p.png", b"png", "image/png"), Upload("a.txt", b"words", "text/plain")]
        await roomy.say(roomy.general, files=files)
        await roomy.next_answer()
    assert "[a.txt]\nwords" in backend.requests[0].turns[-1].text


async def test_pictures_among_people_are_left_alone(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.general, files=[Upload("p.png", b"png", "image/png")])
        await roomy.say(roomy.general, "nice")
        assert (await roomy.next_answer()).text == "Yes."
    assert len(roomy.messages()) == 1


async def test_other_bots_are_not_told_what_can_not_be_read(roomy: DiscordServer, tmp_path: Path) -> None:
    robot, backend = roomy.add_bot("robot"), ScriptedBackend("Read.")
    async with talking(roomy, backend, tmp_path, defaults=channel_settings(other_bots="mentions")):
        await roomy.say(roomy.general, mention=True, author=robot.user, files=[Upload("p.png", b"png", "image/png")])
        await roomy.say(roomy.general, "hello")
        await roomy.until(lambda: [one for one in roomy.messages() if one.text == "Read."] or None)
    assert [turn.text for turn in backend.requests[0].turns if turn.role == "user"] == ["hello"]


async def test_files_that_are_not_for_the_bot_are_not_fetched(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=channel_settings(reply_to="mentions")):
        await roomy.say(roomy.general, "look", files=[Upload("a.txt", b"content", "text/plain")])
        await roomy.say(roomy.general, files=[Upload("p.png", b"png", "image/png")])
        await roomy.say(roomy.general, "hello", mention=True)
        await roomy.next_answer()
        assert len(roomy.messages()) == 1
    assert roomy.calls.to("GET /attachments/*") == []


async def test_a_file_that_takes_its_time_does_not_change_the_order(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, "hello")
        await roomy.next_answer()
        await roomy.say(roomy.general, "first", files=[Upload("a.txt", b"words" * 9999, "text/plain")])
        await roomy.say(roomy.general, "second")
        await roomy.next_answer()
        await roomy.next_answer()
    assert [request.turns[-1].text[:6] for request in backend.requests] == ["hello", "first\n", "second"]


@pytest.mark.parametrize("trigger", [{"prefix": "!"}, {"pattern": "look"}, {"chance": 1.0}])
async def test_a_file_is_read_whatever_calls_the_bot(
    roomy: DiscordServer, tmp_path: Path, trigger: dict[str, object]
) -> None:
    backend, file = ScriptedBackend("Read."), Upload("a.txt", b"content", "text/plain")
    async with talking(roomy, backend, tmp_path, defaults=channel_settings(reply_to="mentions", **trigger)):
        await roomy.say(roomy.general, "!look at this", files=[file])
        assert (await roomy.next_answer()).text == "Read."
    assert backend.requests[0].turns[-1].text.endswith("look at this\n\n[a.txt]\ncontent")


async def test_an_edit_of_the_words_beside_a_file_keeps_the_file(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Read.", "Read again.")
    async with talking(roomy, backend, tmp_path):
        asked = await roomy.say(roomy.general, "look", files=[Upload("a.txt", b"two\nlines", "text/plain")])
        answer = await roomy.next_answer()
        await roomy.unfurl(asked)  # no word of it has changed, and so nothing is offered
        await roomy.edit(asked, "look again")
        offer = await roomy.next_answer()
        await roomy.click(offer, "answer")
        await roomy.until(lambda: offer.text == "Read again." or None, what="the answer")
        assert list(roomy.general.messages.values()) == [asked, answer, offer]
    assert backend.requests[1].turns[-1].text == "look again\n\n[a.txt]\ntwo\nlines"
