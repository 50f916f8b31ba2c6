"""Which messages are answered, as `reply_to` and its neighbours in bots.yaml say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge import Author, Bot, Channel, ChannelSettings, Message, ReplyStream
from chatbridge.bots.triggers import MAX_ANSWERS_TO_BOTS, addressed_text, matches
from chatbridge.testing import ScriptedBackend, bridge_with, scripted

GROUP, PRIVATE, TERMINAL = Channel("g", kind="group"), Channel("p"), Channel("t", kind="terminal")
ANN, ROBOT = Author("a", "Ann"), Author("r", "Robot", is_bot=True)


def answered(settings: dict[str, Any], message: Message, chance: float = 0.5) -> str | None:
    """The text that the model gets to read; None where it gets none."""
    chosen = ChannelSettings(**settings)
    return addressed_text(message, chosen) if matches(message, chosen, lambda: chance) else None


def said(text: str = "hello", channel: Channel = GROUP, author: Author = ANN, **more: Any) -> Message:
    return Message("1", channel, author, text, **more)


@pytest.mark.parametrize(
    ("settings", "message", "expected"),
    [
        ({}, said(), None),
        ({}, said(mentions_bot=True), "hello"),
        ({}, said(replies_to_bot=True), "hello"),
        ({"replies": False}, said(replies_to_bot=True), None),
        ({"replies": False}, said(replies_to_bot=True, mentions_bot=True), "hello"),
        ({"reply_to": "always"}, said(), "hello"),
        ({"reply_to": "never"}, said(mentions_bot=True), None),
        ({}, said(channel=PRIVATE), "hello"),
        ({"private": False}, said(channel=PRIVATE), None),
        ({"private": False}, said(channel=TERMINAL), "hello"),
        ({"reply_to": "never"}, said(channel=PRIVATE), None),
        ({"prefix": "!ask"}, said("!ask  what?"), "what?"),
        ({"prefix": "!ask"}, said("ask what?"), None),
        ({"prefix": "!ask"}, said("!ask"), None),
        ({"prefix": "!ask", "reply_to": "never"}, said("!ask what?"), "what?"),
        ({"prefix": "!ask"}, said("!ask what?", channel=PRIVATE), "what?"),
        ({"pattern": r"(?i)\bbridge\b"}, said("the Bridge is shut"), "the Bridge is shut"),
        ({"pattern": r"(?i)\bbridge\b"}, said("abridged"), None),
        ({"pattern": "bridge", "reply_to": "never"}, said("a bridge"), "a bridge"),
        ({"chance": 0.6}, said(), "hello"),
        ({"chance": 0.4}, said(), None),
        ({"chance": 1, "reply_to": "never"}, said(), None),
        ({"reply_to": "always"}, said(author=ROBOT), None),
        ({}, said(author=ROBOT, mentions_bot=True), None),
        ({"other_bots": "mentions"}, said(author=ROBOT, mentions_bot=True), "hello"),
        ({"other_bots": "mentions", "reply_to": "always"}, said(author=ROBOT), None),
        ({"other_bots": "answer", "reply_to": "always"}, said(author=ROBOT), "hello"),
        ({"other_bots": "answer"}, said(author=ROBOT), None),
    ],
)
def test_who_is_answered(settings: dict[str, Any], message: Message, expected: str | None) -> None:
    assert answered(settings, message) == expected


def test_a_share_of_zero_is_nobody_whatever_is_drawn() -> None:
    assert answered({}, said(), chance=0.0) is None
    assert answered({"chance": 1}, said(), chance=0.999) == "hello"


async def test_two_bots_do_not_talk_for_ever(tmp_path: Path) -> None:
    defaults = ChannelSettings(reply_to="always", other_bots="answer")
    async with bridge_with(scripted(ScriptedBackend("yes")), tmp_path / "db", defaults=defaults) as bridge:
        bot = bridge.bot("b")

        async def answers(author: Author, start: int) -> int:
            turns = [await bot.receive(Message(str(start + i), GROUP, author, "hello")) for i in range(10)]
            return sum(isinstance(turn, ReplyStream) for turn in turns)

        assert await answers(ROBOT, 0) == MAX_ANSWERS_TO_BOTS
        assert await answers(ANN, 100) == 10
        assert await answers(ROBOT, 200) == MAX_ANSWERS_TO_BOTS


@pytest.mark.parametrize(("other_bots", "heard"), [("ignore", False), ("mentions", True), ("answer", True)])
async def test_commands_of_other_bots(tmp_path: Path, other_bots: str, heard: bool) -> None:
    defaults = ChannelSettings.model_validate({"other_bots": other_bots})
    async with bridge_with(scripted(ScriptedBackend("yes")), tmp_path / "db", defaults=defaults) as bridge:
        assert (await bridge.bot("b").receive(said("/help", author=ROBOT)) is not None) == heard


async def tell(bot: Bot, message: Message) -> None:
    turn = await bot.receive(message)
    assert isinstance(turn, ReplyStream)
    async for _ in turn:
        pass


async def test_a_reply_to_a_remembered_answer_is_one_to_the_bot(tmp_path: Path) -> None:
    async with bridge_with(scripted(ScriptedBackend("yes")), tmp_path / "db", defaults=ChannelSettings()) as bridge:
        bot = bridge.bot("b")
        await tell(bot, Message("1", GROUP, ANN, "hello", mentions_bot=True))
        answer = (await bot.dialogue(GROUP).path())[-1]
        await bot.message_index.note("b", GROUP.id, "m1", answer.id)
        assert await bot.receive(Message("2", GROUP, ANN, "and?", reply_to="1")) is None
        assert isinstance(await bot.receive(Message("3", GROUP, ANN, "and?", reply_to="m1")), ReplyStream)


async def test_unknown_commands_in_groups_are_for_other_bots(tmp_path: Path) -> None:
    async with bridge_with(scripted(ScriptedBackend("yes")), tmp_path / "db") as bridge:
        assert await bridge.bot("b").receive(said("/roll 2d6")) is None
