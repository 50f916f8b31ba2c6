"""What applies to a message while it is answered: its settings, and the conversation that it was said in."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from chatbridge import (
    Author,
    BackendType,
    Bot,
    Channel,
    ChannelSettings,
    CommandError,
    Delivery,
    Limits,
    Message,
    Options,
    ReplyStream,
)
from chatbridge.config import Settings
from chatbridge.testing import FakeService, ScriptedBackend, bridge_with, scripted

from .conftest import ALONE, ROOM, Make, command, drained, said


async def test_a_new_conversation_begun_while_the_model_loads_leaves_the_answer_whole(
    tmp_path: Path, message: Make
) -> None:
    async def connect(options: Options) -> ScriptedBackend:
        await bridge.bot("b").dialogue(ALONE).reset()
        return ScriptedBackend("one")

    async with bridge_with(BackendType("late", Options, "", connect=connect), tmp_path / "db") as bridge:
        text, finish = await drained(await bridge.bot("b").receive(message("hello")))
        assert await said(bridge.bot("b")) == [], "the new conversation is empty"
    assert text == "one"
    assert finish is not None


async def test_what_applies_is_merged_once_and_not_for_each_message(tmp_path: Path) -> None:
    merged: list[str] = []

    class Counting(Settings):
        def channel(self, bot: str, channel: Channel, **overrides: Any) -> ChannelSettings:
            merged.append(channel.id)
            return Settings.channel(self, bot, channel, **overrides)

    service = FakeService(Limits(2000))
    async with bridge_with(scripted(ScriptedBackend("one", "alone", "two")), tmp_path / "db") as bridge:
        settings = bridge.settings
        bridge.source.current = Counting(**{key.name: getattr(settings, key.name) for key in fields(settings)})
        async with Delivery(bridge.bot("b"), service.chat, service.limits) as delivery:
            await delivery.accept(Message("1", ROOM, Author("ann", "Ann"), "hello", mentions_bot=True))
            await delivery.settled()
            await delivery.accept(Message("1", ALONE, Author("ann", "Ann"), "hello"))
            await delivery.settled()
            assert merged == [ROOM.id], "and no other channel that bots.yaml does not name has other settings"
            await bridge.bot("b").dialogue(ROOM).override("thinking", "show")
            await delivery.accept(Message("2", ROOM, Author("ann", "Ann"), "hello again", mentions_bot=True))
            await delivery.settled()
    assert merged == [ROOM.id] * 2, "a conversation with settings of its own merges these on top"
    assert service.shown(ROOM.id) == ["one", "two"]


async def test_stop_strings_are_set_as_they_are_typed_with_line_ends_as_backslash_n(bot: Bot) -> None:
    for typed, stop in (("结束", "结束"), (r"\n\nYou:", "\n\nYou:"), ("###", "###")):
        await command(bot, f"/set stop {typed}")
        assert (await bot.dialogue(ALONE).settings()).sampling.stop == (stop,)


@pytest.mark.parametrize("typed", [r"\x4", r"\N{no such}", r"\ud800", r"a\udfff"])
async def test_a_stop_string_that_is_no_text_is_refused_and_changes_nothing(bot: Bot, typed: str) -> None:
    before = (await bot.dialogue(ALONE).settings()).sampling.stop
    with pytest.raises(CommandError, match=r"stop can't be .* an escape"):
        await command(bot, f"/set stop {typed}")
    assert (await bot.dialogue(ALONE).settings()).sampling.stop == before


async def test_a_message_that_is_deleted_while_the_model_is_loaded_is_not_answered(tmp_path: Path) -> None:
    async def connect(options: Options) -> ScriptedBackend:
        assert await bot.message_index.remove(bot.name, ALONE.id, "2")
        return ScriptedBackend("an answer to what?")

    slow = BackendType("slow", Options, "takes long to load", connect=connect)
    async with bridge_with(slow, tmp_path / "db") as bridge:
        bot = bridge.bot("b")
        conversation = await bot.dialogue(ALONE).conversation()
        await bridge.store.append(conversation.id, "user", "before", parent=None)
        turn = await bot.receive(Message("2", ALONE, Author("a", "Ann"), "secret"))
        assert isinstance(turn, ReplyStream)
        assert await drained(turn) == ("", None)
        assert turn.notices == ["The message that this would answer was deleted."]
        assert await said(bot) == [("user", "before")]


@pytest.mark.parametrize(
    ("before", "after", "joint"), [("你好，", "世界", ""), ("他说", "OK", ""), ("OK", "好", ""), ("a", "b", " ")]
)
async def test_no_blank_comes_between_chinese_characters(tmp_path: Path, before: str, after: str, joint: str) -> None:
    async with bridge_with(scripted(ScriptedBackend(after)), tmp_path / "db") as bridge:
        bot = bridge.bot("b")
        conversation = await bot.dialogue(ALONE).conversation()
        asked = await bridge.store.append(conversation.id, "user", "go on", parent=None)
        await bridge.store.append(conversation.id, "assistant", before, parent=asked.id, partial=True)
        await drained(await command(bot, "/continue"))
        assert (await said(bot))[-1] == ("assistant", f"{before}{joint}{after}")
