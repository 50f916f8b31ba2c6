"""A message that is too long for the model costs once, and a command shows an excerpt of what somebody wrote."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import Author, Bot, Channel, Message, Notice, PromptTooLong, ReplyStream
from chatbridge.bots.command import parse
from chatbridge.prompts.segments import Prompt
from chatbridge.testing import ScriptedBackend, bridge_with, channel_settings, scripted

ANN, ALONE = Author("a", "Ann"), Channel("p")


class Counting(ScriptedBackend):
    """Remembers how many tokens it was asked to count."""

    counted = 0

    async def count_tokens(self, prompt: Prompt) -> int:
        tokens = await super().count_tokens(prompt)
        self.counted += tokens
        return tokens


async def answered(bot: Bot, id: str, text: str) -> None:
    reply = await bot.receive(Message(id, ALONE, ANN, text))
    assert isinstance(reply, ReplyStream)
    _ = [chunk async for chunk in reply]


async def test_what_was_too_long_once_costs_nothing_more(tmp_path: Path) -> None:
    backend = Counting("Yes.")
    backend.info = replace(backend.info, context_length=2000)
    async with bridge_with(scripted(backend), tmp_path / "db", defaults=channel_settings()) as bridge:
        bot = bridge.bot("bot")
        with pytest.raises(PromptTooLong):
            await answered(bot, "1", "word " * 1000)
        assert backend.counted > 4000
        backend.counted = 0
        with pytest.raises(PromptTooLong, match="shorten the message"):
            await answered(bot, "2", "/regenerate")
        assert backend.counted == 0
        await answered(bot, "3", "hello")
        await answered(bot, "4", "hello again")
        assert backend.counted < 1000
    turns = [turn.text for turn in backend.requests[-1].turns if turn.role != "system"]
    assert turns == ["hello", "Yes.", "hello again"]


async def test_commands_show_the_beginning_of_long_words_again(tmp_path: Path) -> None:
    async with bridge_with(scripted(ScriptedBackend("Yes.")), tmp_path / "db", defaults=channel_settings()) as bridge:
        bot = bridge.bot("bot")
        await answered(bot, "1", "[" * 5000)
        undone = await bot.receive(Message("2", ALONE, ANN, "/undo"))
        assert isinstance(undone, Notice)
        assert undone.text == f"Taken back: {'[' * 1000} […, 4000 more characters]"


def test_a_command_is_told_from_a_message_in_linear_time() -> None:
    def seconds(text: str) -> float:
        began = time.process_time()
        found = parse(text)
        assert found == ("set", f"x{' ' * blanks}y")
        return time.process_time() - began

    blanks = 8_000
    small = seconds(f"/set \n x{' ' * blanks}y \n")
    blanks *= 8
    assert seconds(f"/set \n x{' ' * blanks}y \n") < 24 * max(small, 0.002)  # quadratic: 64 times, a minute of them
    assert parse("/SET") == ("set", "")
    assert parse("/usr/bin") is None
