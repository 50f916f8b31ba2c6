"""One conversation of a bot: who ends its answers, how they are continued, and what a bot says of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chatbridge import Author, Bot, Channel, ChannelSettings, CommandError, ConfigError, Message, Notice, ReplyStream
from chatbridge.bots.triggers import MAX_STREAKS, BotStreaks
from chatbridge.testing import ScriptedBackend, bridge_with, channel_settings, scripted
from chatbridge.texts import say as text_of
from chatbridge.types import Press

from .conftest import ALONE, ROOM, Make, Say, command, drained, first_words, said
from .served import ANN, BOB, GROUP, serving


async def test_what_is_on_its_way_can_be_stopped_and_it_is_told_whether_there_was_anything(
    bot: Bot, message: Make
) -> None:
    dialogue = bot.dialogue(ALONE)
    assert not dialogue.stop()
    turn = await bot.receive(message("talk"))
    assert isinstance(turn, ReplyStream)
    chunks = aiter(turn)
    await first_words(chunks)
    assert dialogue.stop()
    assert [chunk.finish.reason for chunk in [chunk async for chunk in chunks] if chunk.finish] == ["cancelled"]
    assert not dialogue.stop()


async def test_the_button_stop_ends_the_answer_that_it_stands_under(tmp_path: Path) -> None:
    async with serving(tmp_path, ("one", "two words")) as served:
        press = Press("stop", "shown", GROUP, ANN)
        assert await served.bot.stop(press, None) == text_of("en", "nothing_to_stop")
        stream = await served.bot.receive(served.message("go on", ANN))
        assert isinstance(stream, ReplyStream)
        assert await served.bot.stop(Press("stop", "shown", GROUP, BOB), stream) == text_of("en", "not_yours")
        assert await served.bot.stop(press, stream) == ""
        assert await drained(stream) == ("", None)


async def test_an_answer_that_is_continued_tells_what_it_goes_on_with(bot: Bot, say: Say) -> None:
    await command(bot, "/set max_tokens 5")
    empty = await command(bot, "/continue")
    assert isinstance(empty, ReplyStream)
    assert empty.so_far is not None
    assert await empty.so_far() == ""
    finish = await say("talk")
    by_command, by_node = await command(bot, "/continue"), bot.dialogue(ALONE).go_on(node=2)
    for stream in (by_command, by_node):
        assert isinstance(stream, ReplyStream)
        assert stream.so_far is not None
        assert await stream.so_far() == finish.reply.text
    asked = bot.dialogue(ALONE).go_on(node=1).so_far
    assert asked is not None
    assert await asked() == "", "that is no answer"
    assert by_node.language == "en"


async def test_a_command_that_is_given_up_as_it_fails_is_given_up(bot: Bot) -> None:
    turn = await command(bot, "/regenerate")
    listening = asyncio.create_task(drained(turn))
    await asyncio.sleep(0)
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert not bot.dialogue(ALONE).busy


async def test_words_can_be_put_in_the_place_of_ones_own_until_they_are_read(bot: Bot, message: Make) -> None:
    mine = message("hello")
    turn = await bot.receive(mine)
    assert isinstance(turn, ReplyStream)
    assert not turn.reword(Message(mine.id, ALONE, Author("bob", "Bob"), "I am a fool"))
    assert turn.reword(Message(mine.id, ALONE, mine.author, "hello there"))
    await drained(turn)
    assert (await said(bot))[0] == ("user", "hello there")
    assert not turn.reword(mine), "too late"


async def test_a_conversation_that_begins_with_settings_of_its_own_is_a_new_one(
    bot: Bot, say: Say, message: Make
) -> None:
    await say("one")
    dialogue = bot.dialogue(ALONE)
    await drained(dialogue.send(message("two"), new_with={"system": "Be kind."}, author=Author("ann", "Ann")))
    assert [text for role, text in await said(bot) if role == "user"] == ["two"]
    assert (await dialogue.settings()).system == "Be kind."


async def test_a_model_that_bots_yaml_has_no_longer_is_named_with_what_is_near(bot: Bot) -> None:
    for name, hint in (("toi", "; did you mean 'toy'?"), ("xxxxxxx", ";")):
        with pytest.raises(ConfigError) as told:
            bot.model(ChannelSettings(model=name))
        assert str(told.value) == f"bots.yaml has no model {name!r}{hint} /model picks another one"


async def test_a_bot_speaks_the_language_of_whoever_speaks_to_it(bot: Bot) -> None:
    assert [bot.language(ALONE, *told) for told in ((), ("zh-TW",), ("", "你好，世界"))] == ["en", "zh", "zh"]


async def test_the_keys_of_settings_are_offered(bot: Bot, message: Make) -> None:
    assert await bot.completions("set", message("temp")) == ["temperature"]


async def test_settings_are_shown_as_they_were_given(bot: Bot) -> None:
    await command(bot, "/set stop END")
    listed = await command(bot, "/set")
    assert isinstance(listed, Notice)
    assert "END" in listed.text
    assert "history true" in listed.text
    assert "grammar" not in listed.text
    assert "adapter -" in listed.text


async def test_a_person_who_asks_to_be_let_in_ends_a_row_of_answers_to_bots_as_well(tmp_path: Path) -> None:
    defaults = channel_settings(other_bots="answer", reply_to="always")
    async with bridge_with(scripted(ScriptedBackend("yes")), tmp_path / "db", defaults=defaults) as bridge:
        bot, robot = bridge.bot("b"), Author("r", "Robot", is_bot=True)
        for author in (robot,) * 4 + (ANN,) + (robot,) * 5:
            assert isinstance(await bot.receive(Message(f"{id(author)}", ROOM, author, "hello")), ReplyStream)
        assert await bot.receive(Message("last", ROOM, robot, "hello")) is None


def test_rows_of_answers_to_bots_are_remembered_for_so_many_channels() -> None:
    streaks, room = BotStreaks(), Channel("room", kind="group")
    for _ in range(5):
        assert streaks.allow(room)
    for number in range(MAX_STREAKS - 1):
        streaks.allow(Channel(str(number), kind="group"))
    assert not streaks.allow(room), "it is still among them, and now the latest"
    for number in range(MAX_STREAKS):
        streaks.allow(Channel(str(number), kind="group"))
    assert streaks.allow(room)


async def test_at_a_terminal_help_has_its_commands_as_well(bot: Bot) -> None:
    told = []
    for kind in ("terminal", "private"):
        answer = await bot.receive(Message(kind, Channel("alone", kind=kind), Author("ann", "Ann"), "/help"))  # type: ignore[arg-type]
        assert isinstance(answer, Notice)
        told.append("`/save FILE`" in answer.text)
    assert told == [True, False]


async def test_a_template_that_nobody_knows_is_refused_and_nothing_is_set(bot: Bot) -> None:
    with pytest.raises(CommandError, match="alpaca"):
        await command(bot, "/template alpac")
    assert (await bot.dialogue(ALONE).conversation()).overrides == {}


async def test_before_the_first_answer_there_is_nothing_to_tell_of_one(bot: Bot) -> None:
    expected = f"{text_of('en', 'stats_history', count=0)}\n{text_of('en', 'stats_none')}"
    assert await command(bot, "/stats") == Notice(expected)


async def test_why_a_file_can_not_be_written_is_told(bot: Bot, tmp_path: Path) -> None:
    for text in (f"/save {tmp_path}/missing/a", f"/load {tmp_path}/missing/a"):
        with pytest.raises(CommandError, match="No such file or directory"):
            await command(bot, text)


async def test_one_goes_back_to_an_earlier_conversation_by_a_message_of_it(bot: Bot, say: Say) -> None:
    await say("one")
    await command(bot, "/reset")
    await say("two")
    dialogue = bot.dialogue(ALONE)
    await dialogue.go_to(1)
    assert [(node.id, node.text) for node in await dialogue.path()] == [(1, "one")]
    asked = await dialogue.answered_by(4)
    assert asked is not None
    assert (asked.id, (await dialogue.conversation()).id) == (3, 2)


async def test_whose_a_message_is_and_whose_the_answer_to_it(bot: Bot, say: Say) -> None:
    await say("one")
    dialogue = bot.dialogue(ALONE)
    assert [await dialogue.asker_of(node) for node in await dialogue.path()] == ["ann", "ann"]
