"""What is put right in answers: as the original does it, in whatever pieces they come."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import Author, Channel, ChannelSettings, Message, ReplyStream
from chatbridge.prompts.clean_up import cleaned, cleaned_chunks
from chatbridge.prompts.segments import Text
from chatbridge.testing import ScriptedBackend, bridge_with, scripted
from chatbridge.types import Chunk, Finish, Reply, Usage, Waiting

RECORDED = json.loads(Path("tests/fixtures/chatglm/reference.json").read_text("utf-8"))["process_response"]
ANSWERS = st.lists(st.sampled_from([*",!:;?[] \n中文好aZ1", "[[训练时间]]", "[[训练"]), max_size=14)


async def streamed(pieces: Sequence[str], *, before: str = "") -> tuple[str, Reply]:
    async def chunks() -> AsyncGenerator[Chunk, None]:
        for piece in pieces:
            yield Chunk(piece)
        yield Chunk(finish=Finish("end", Reply("".join(pieces), (1, 2), "", "glm"), Usage()))

    shown = [chunk async for chunk in cleaned_chunks(chunks(), before)]
    assert shown[-1].finish is not None
    return "".join(chunk.text for chunk in shown), shown[-1].finish.reply


@pytest.mark.parametrize(("raw", "expected"), RECORDED)
async def test_as_the_original(raw: str, expected: str) -> None:
    assert cleaned(raw) == expected
    assert (await streamed([*raw.strip()]))[0] == expected


@given(ANSWERS, st.integers(1, 5))
async def test_pieces_say_what_the_whole_says(parts: list[str], size: int) -> None:
    text = "".join(parts).strip()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    shown, reply = await streamed(pieces)
    assert shown == cleaned(text)
    if shown == text:
        assert reply == Reply(text, (1, 2), "", "glm"), "its ids go back as they are"
    else:
        assert reply == Reply(cleaned(text)), "ids would say something else"


@given(ANSWERS)
async def test_the_whole_is_the_originals_five_rules_one_after_the_other(parts: list[str]) -> None:
    text = expected = "".join(parts)
    expected = expected.strip().replace("[[训练时间]]", "2023年")
    for sign, full in zip((",", "!", ":", ";", r"\?"), "，！：；？", strict=True):
        expected = re.sub(rf"([\u4e00-\u9fff]){sign}", rf"\1{full}", expected)
        expected = re.sub(rf"{sign}([\u4e00-\u9fff])", rf"{full}\1", expected)
    assert cleaned(text) == expected


async def test_an_answer_that_goes_on_knows_what_it_follows() -> None:
    assert (await streamed([", world"], before="你好"))[0] == "， world"
    assert (await streamed([", world"], before="hello"))[0] == ", world"


async def test_only_what_may_change_is_held_back() -> None:
    async def chunks() -> AsyncGenerator[Chunk, None]:
        yield Chunk(waiting=Waiting(2))
        for piece in ("你好", ",", "世界", "[", "a]", "thought", "好[[训练时间]]", "[[训练时间]", "]"):
            yield Chunk(piece, thinking=piece == "thought")

    shown = [chunk async for chunk in cleaned_chunks(chunks())]
    assert [chunk.text for chunk in shown] == ["", "你好", "，世界", "[a]", "thought", "好2023年", "2023年"]
    assert shown[0] == Chunk(waiting=Waiting(2))


async def test_thoughts_are_kept_as_they_were() -> None:
    async def chunks() -> AsyncGenerator[Chunk, None]:
        yield Chunk(finish=Finish("end", Reply("好,", (1,), "", "glm", "so,"), Usage()))

    (last,) = [chunk async for chunk in cleaned_chunks(chunks())]
    assert last.finish is not None
    assert last.finish.reply == Reply("好，", thoughts="so,")


async def test_a_bot_shows_and_keeps_what_was_put_right(tmp_path: Path) -> None:
    defaults = ChannelSettings(reply_to="always")
    backend = ScriptedBackend("你好,世界!")
    async with bridge_with(scripted(backend), tmp_path / "db", defaults=defaults, template="chatglm-6b") as bridge:
        bot = bridge.bot("b")
        for number in ("1", "2"):
            reply = await bot.receive(Message(number, Channel("c"), Author("ann", "Ann"), "问好"))
            assert isinstance(reply, ReplyStream)
            assert "".join([chunk.text async for chunk in reply]) == "你好，世界！"
        assert [node.text for node in await bot.dialogue(Channel("c")).path()][1::2] == ["你好，世界！"] * 2
        assert "你好，世界！" in [part.text for part in backend.requests[1].prompt if isinstance(part, Text)]
