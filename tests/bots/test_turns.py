"""Turns: what is asked, kept, regenerated, edited, continued and stopped, through the whole way of a message."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import (
    Attachment,
    Author,
    BackendError,
    Bot,
    Bridge,
    Channel,
    ChannelSettings,
    CommandError,
    InvalidRequest,
    Message,
    Notice,
    Plugins,
    PromptTooLong,
    ReplyStream,
    Sampling,
)
from chatbridge.config import ModelSettings, Settings, SettingsSource
from chatbridge.testing import ScriptedBackend, bridge_with, scripted, toy_backend
from chatbridge.testing.toy import ToyOptions
from chatbridge.texts import say as text_of

from .conftest import ALONE, ROOM, Make, Say, ToyPlugin, command, drained, first_words, said


async def test_what_was_streamed_is_what_is_kept(bot: Bot, message: Make, plugin: ToyPlugin) -> None:
    text, finish = await drained(await bot.receive(message("hello")))
    assert finish is not None
    assert text == finish.reply.text != ""
    assert await said(bot) == [("user", "hello"), ("assistant", text)]
    assert [turn.finish for turn in plugin.turns] == [finish]


async def test_a_message_that_comes_twice_is_answered_once(bot: Bot, message: Make) -> None:
    once = message("hello")
    await drained(await bot.receive(once))
    again = await bot.receive(once)
    assert await drained(again) == ("", None)
    assert isinstance(again, ReplyStream)
    assert again.notices
    assert len(await said(bot)) == 2


async def test_each_channel_has_its_own_conversation(bot: Bot, say: Say) -> None:
    await say("hello", ALONE)
    await say("hi", ROOM)
    assert (await said(bot, ROOM))[0] == ("user", "hi")
    assert len(await said(bot, ALONE)) == 2


async def test_the_model_sees_what_was_said_before(bot: Bot, say: Say) -> None:
    first = await say("one")
    second = await say("two")
    assert second.usage.prompt > first.usage.prompt + first.usage.generated
    # Only the second message and the opening of its answer are new, and the very last token of the first answer,
    # which was sampled and never read.
    assert first.reason == "length"
    assert second.usage.cached == first.usage.prompt + len(first.reply.tokens) - 1


FAILS = BackendError("the model is on holiday")


async def test_a_regenerated_answer_that_fails_before_its_first_word_leaves_the_old_one_aside(tmp_path: Path) -> None:
    async with bridge_with(scripted(ScriptedBackend("old", FAILS, "new")), tmp_path / "db") as bridge:
        bot = bridge.bot("b")
        await drained(await bot.receive(Message("1", ALONE, Author("a", "Ann"), "hello")))
        with pytest.raises(BackendError, match="holiday"):
            await drained(await command(bot, "/regenerate"))
        assert await said(bot) == [("user", "hello")], "neither the old answer nor an empty one"
        assert (await drained(await command(bot, "/regenerate")))[0] == "new"
        conversation = await bot.dialogue(ALONE).conversation()
        assert {leaf.text for leaf in await bridge.store.leaves(conversation.id)} == {"old", "new"}


async def test_a_continued_answer_that_fails_before_its_first_word_is_left_as_it_was(tmp_path: Path) -> None:
    async with bridge_with(scripted(ScriptedBackend("whole", FAILS)), tmp_path / "db") as bridge:
        bot = bridge.bot("b")
        await drained(await bot.receive(Message("1", ALONE, Author("a", "Ann"), "hello")))
        before = await bot.dialogue(ALONE).path()
        with pytest.raises(BackendError, match="holiday"):
            await drained(await command(bot, "/continue"))
        assert await bot.dialogue(ALONE).path() == before, "it is not partial now"


async def test_regenerate_asks_the_same_again_and_keeps_both(bot: Bot, say: Say) -> None:
    await command(bot, "/set temperature 1.5")
    await command(bot, "/set seed default")
    first = await say("tell me")
    text, finish = await drained(await command(bot, "/regenerate"))
    assert finish is not None
    assert finish.usage.prompt == first.usage.prompt
    assert finish.usage.cached == first.usage.prompt - 1, "only the last token of the prompt is read again"
    assert await said(bot) == [("user", "tell me"), ("assistant", text)]
    listed = await command(bot, "/branch")
    assert isinstance(listed, Notice)
    assert listed.text.count("\n") == 2
    number = next(line.split(":")[0][2:] for line in listed.text.splitlines() if line.startswith("- "))
    await command(bot, f"/branch {number}")
    assert (await said(bot))[1][1] == first.reply.text


async def test_edit_replaces_the_last_message(bot: Bot, say: Say) -> None:
    await say("one")
    await say("two")
    text, _ = await drained(await command(bot, "/edit three"))
    path = await said(bot)
    assert [path[2], path[3]] == [("user", "three"), ("assistant", text)]
    assert len(path) == 4


async def test_undo_goes_back_and_loses_nothing(bot: Bot, say: Say) -> None:
    await say("one")
    two = await say("two")
    answer = await command(bot, "/undo")
    assert isinstance(answer, Notice)
    assert "two" in answer.text
    assert len(await said(bot)) == 2
    conversation = await bot.dialogue(ALONE).conversation()
    leaves = await bot.services.store.leaves(conversation.id)
    assert two.reply.text in [leaf.text for leaf in leaves]


async def test_continue_goes_on_as_if_it_had_never_ended(bot: Bot, say: Say) -> None:
    whole = await say("go on and on", Channel("other"))
    await command(bot, "/set max_tokens 10")
    part = await say("go on and on")
    assert part.reason == "length"
    text, finish = part.reply.text, part
    while finish.reason == "length" and len(finish.reply.tokens) < len(whole.reply.tokens):
        more, ended = await drained(await command(bot, "/continue"))
        assert ended is not None
        text, finish = text + more, ended
        assert ended.reply.text.startswith(part.reply.text)
    assert finish.reply.tokens[: len(whole.reply.tokens)] == whole.reply.tokens
    assert (await said(bot))[-1] == ("assistant", finish.reply.text)
    assert len(await said(bot)) == 2


async def test_continue_with_another_model_goes_on_behind_the_text(bot: Bot, say: Say) -> None:
    await command(bot, "/set max_tokens 10")
    first = await say("go on")
    conversation = await bot.dialogue(ALONE).conversation()
    node = (await bot.dialogue(ALONE).path())[-1]
    from chatbridge import Reply

    await bot.services.store.update_reply(
        node.id, node.text, Reply(node.text, (1, 2, 3), "", "another tokenizer"), True
    )
    text, _ = await drained(await command(bot, "/continue"))
    assert (await said(bot))[-1][1] == f"{first.reply.text} {text}"
    assert conversation.head == node.id


async def test_reset_begins_anew_and_the_old_is_kept(bot: Bot, say: Say) -> None:
    await say("one")
    await command(bot, "/reset")
    assert await said(bot) == []
    await say("two")
    listed = await command(bot, "/branch")
    assert isinstance(listed, Notice)
    assert "one" in listed.text


async def test_ten_earlier_conversations_are_listed_and_gone_back_to(bot: Bot, say: Say) -> None:
    for number in range(13):
        await say(f"talk {number}")
        if number < 12:
            await command(bot, "/reset")
    listed = await command(bot, "/branch")
    assert isinstance(listed, Notice)
    _, current, _, *earlier = listed.text.splitlines()
    assert current.endswith(" (you are here)")
    assert [line.rpartition(": ")[2] for line in earlier] == [f"talk {number}" for number in range(11, 1, -1)]
    oldest = earlier[-1].removeprefix("- ").partition(":")[0]
    assert await command(bot, f"/branch {oldest}") == Notice(text_of("en", "branch_taken", id=oldest))
    assert (await said(bot))[0] == ("user", "talk 2")
    assert (await bot.dialogue(ALONE).conversation()).id == int(oldest[1:])
    with pytest.raises(CommandError, match="no branch 'c999'"):
        await command(bot, "/branch c999")


async def test_each_answer_to_a_message_is_a_branch_to_go_to(bot: Bot, say: Say) -> None:
    await say("one")
    first = await said(bot)
    await drained(await command(bot, "/regenerate"))
    listed = await command(bot, "/branch")
    assert isinstance(listed, Notice)
    _, other, current = listed.text.splitlines()
    assert [line.endswith(" (you are here)") for line in (other, current)] == [False, True]
    id = other[2:].partition(":")[0]
    assert await command(bot, f"/branch {id}") == Notice(text_of("en", "branch_taken", id=id))
    assert await said(bot) == first


async def test_a_conversation_whose_only_message_was_taken_back_is_listed_as_well(bot: Bot, say: Say) -> None:
    await say("one")
    await command(bot, "/undo")
    await command(bot, "/reset")
    listed = await command(bot, "/branch")
    assert isinstance(listed, Notice)
    (earlier,) = [line for line in listed.text.splitlines() if line.startswith("- c")]
    assert earlier.endswith(": one")
    await command(bot, "/branch " + earlier.removeprefix("- ").partition(":")[0])
    back = await command(bot, "/branch")
    assert isinstance(back, Notice)
    assert [line[:2] for line in back.text.splitlines()[1:]] == ["- "]
    assert "you are here" not in back.text


@pytest.mark.parametrize("text", ["/regenerate", "/continue", "/edit x", "/undo", "/edit", "/branch 99", "/model nope"])
async def test_a_command_that_can_not_be_says_why(bot: Bot, text: str) -> None:
    with pytest.raises(CommandError) as raised:  # noqa: PT012  (some are found out when the turn begins)
        result = await command(bot, text)
        await drained(result)
    assert len(str(raised.value)) > 10


async def test_an_unknown_command_is_answered_by_a_guess(bot: Bot) -> None:
    with pytest.raises(CommandError, match="'/regenerate'"):
        await command(bot, "/regenrate")


async def test_stop_keeps_what_came(bot: Bot, message: Make) -> None:
    await command(bot, "/set max_tokens 500")
    await command(bot, "/set logit_bias 257:-100")  # never an end
    turn = await bot.receive(message("talk"))
    assert isinstance(turn, ReplyStream)
    text = ""
    async for chunk in turn:
        if chunk.text and not text:
            stopped = await command(bot, "/stop")
            assert isinstance(stopped, Notice)
        text += chunk.text
    assert turn.finish is not None
    assert turn.finish.reason == "cancelled"
    assert await said(bot) == [("user", "talk"), ("assistant", text)]
    assert (await bot.dialogue(ALONE).path())[-1].partial
    idle = await command(bot, "/stop")
    assert isinstance(idle, Notice)


@pytest.mark.parametrize("toy", [toy_backend], ids=["in a worker"])
async def test_stopping_an_answer_whose_model_is_being_loaded_begins_none(
    bridge: Bridge, bot: Bot, message: Make, plugin: ToyPlugin
) -> None:
    turn = await bot.receive(message("talk"))
    assert isinstance(turn, ReplyStream)
    bridge.models.on_progress = lambda name, share, doing: turn.stop()
    assert await drained(turn) == ("", None)
    assert await said(bot) == [("user", "talk")]
    assert plugin.turns == []
    text, _ = await drained(await command(bot, "/regenerate"))
    assert await said(bot) == [("user", "talk"), ("assistant", text)]


async def test_what_was_said_is_kept_though_its_answer_is_stopped_before_it_begins(
    bot: Bot, message: Make, plugin: ToyPlugin
) -> None:
    turn = await bot.receive(message("talk"))
    assert isinstance(turn, ReplyStream)
    turn.stop()
    assert await drained(turn) == ("", None)
    assert await said(bot) == [("user", "talk")]
    withdrawn = await bot.receive(message("never mind"))
    assert isinstance(withdrawn, ReplyStream)
    withdrawn.supersede()
    assert await drained(withdrawn) == ("", None)
    assert await said(bot) == [("user", "talk")]
    assert plugin.turns == []


async def test_what_was_said_is_kept_though_its_answer_is_given_up_as_it_begins(bot: Bot, message: Make) -> None:
    turn = await bot.receive(message("talk"))
    listening = asyncio.create_task(drained(turn))
    await asyncio.sleep(0)
    assert bot.dialogue(ALONE).answering
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert await said(bot) == [("user", "talk")]


async def test_a_listener_that_leaves_loses_nothing_that_was_shown(bot: Bot, message: Make) -> None:
    turn = await bot.receive(message("talk"))
    assert isinstance(turn, ReplyStream)
    chunks = aiter(turn)
    shown = await first_words(chunks) + await first_words(chunks)
    await chunks.aclose()
    assert await said(bot) == [("user", "talk"), ("assistant", shown.strip())]


async def test_turns_of_a_conversation_wait_for_one_another(bot: Bot, message: Make) -> None:
    turns = [await bot.receive(message(f"number {i}")) for i in range(5)]
    answers = await asyncio.gather(*(drained(turn) for turn in turns))
    path = await said(bot)
    assert [text for role, text in path if role == "user"] == [f"number {i}" for i in range(5)]
    assert [text for role, text in path if role == "assistant"] == [text for text, _ in answers]


async def test_history_off_answers_each_message_by_itself(bot: Bot, say: Say) -> None:
    await command(bot, "/set history false")
    first = await say("same")
    await say("something between")
    assert (await say("same")).reply == first.reply


async def test_names_are_said_in_groups_only(bot: Bot, say: Say) -> None:
    alone = await say("hello", ALONE)
    group = await say("hello", ROOM)
    assert group.usage.prompt == alone.usage.prompt + len("Ann: ")


async def test_text_files_are_read_and_others_named(bot: Bot, message: Make) -> None:
    files = (Attachment("notes.txt", "text/plain", "日记".encode()), Attachment("cat.png", "image/png", b"\x89"))
    turn = await bot.receive(message("look", attachments=files))
    await drained(turn)
    assert isinstance(turn, ReplyStream)
    assert turn.notices == ["(I can't read cat.png, only text files.)"]
    assert (await said(bot))[0][1] == "look\n\n[notes.txt]\n日记\n\n[cat.png, image/png]"


async def test_half_characters_become_whole_ones(bot: Bot, say: Say) -> None:
    await say("a\ud800b")
    assert (await said(bot))[0][1] == "a?b"


async def test_a_message_that_can_not_fit_is_told_and_kept(bot: Bot, message: Make, plugin: ToyPlugin) -> None:
    with pytest.raises(PromptTooLong, match="shorten the message"):
        await drained(await bot.receive(message("x" * 1000)))
    assert [role for role, _ in await said(bot)] == ["user"]
    assert plugin.turns[-1].error


async def test_old_turns_are_left_out_in_blocks_and_it_is_said(bot: Bot, message: Make) -> None:
    notices = []
    for i in range(30):
        turn = await bot.receive(message(f"message number {i}"))
        await drained(turn)
        assert isinstance(turn, ReplyStream)
        notices.append(len(turn.notices))
    assert 1 <= sum(notices) <= 10, "history is left out seldom, and in blocks"
    assert len(await said(bot)) == 60, "the store loses nothing"


async def test_models_and_templates_are_changed_for_one_conversation(bot: Bot, say: Say, plugin: ToyPlugin) -> None:
    await say("hello")
    await command(bot, "/model short")
    await say("hello")
    assert [turn.model for turn in plugin.turns] == ["toy", "short"]
    assert (await bot.dialogue(ALONE).settings()).template == "vicuna", "the model brings its own template"
    await command(bot, "/template alpaca")
    assert (await bot.dialogue(ALONE).settings()).template == "alpaca"
    await say("hello", ROOM)
    assert plugin.turns[-1].model == "toy"


async def test_by_default_a_conversation_goes_back_to_what_the_channel_says(
    bot: Bot, say: Say, plugin: ToyPlugin
) -> None:
    before = (await bot.dialogue(ALONE).settings()).model_dump()
    for command_, value in (("system", "Be brief."), ("template", "alpaca"), ("model", "short")):
        await command(bot, f"/{command_} {value}")
        assert (await bot.dialogue(ALONE).settings()).model_dump()[command_] == value
        said = await command(bot, f"/{command_} default")
        assert isinstance(said, Notice)
        assert said.text.endswith("is the channel's again.")
    assert (await bot.dialogue(ALONE).settings()).model_dump() == before
    assert (await bot.dialogue(ALONE).conversation()).overrides == {}


async def test_system_text_is_part_of_the_prompt(bot: Bot, say: Say) -> None:
    plain = await say("hello", Channel("other"))
    await command(bot, "/system Be kind. {user} </s>")
    kind = await say("hello")
    # <|im_start|>, "system\n", the text as it was typed, <|im_end|>, "\n"
    assert kind.usage.prompt == plain.usage.prompt + 2 + len("system\nBe kind. {user} </s>\n")


async def test_save_and_load_bring_a_conversation_back(bot: Bot, say: Say, tmp_path: object) -> None:
    await say("one")
    await say("two")
    before = await said(bot)
    file = f"{tmp_path}/talk.json"
    await command(bot, f"/save {file}")
    await command(bot, "/reset")
    await command(bot, f"/load {file}")
    assert await said(bot) == before
    with pytest.raises(CommandError, match="terminal"):
        await bot.receive(Message("x", ALONE, Author("ann", "Ann"), f"/save {file}"))


async def test_stats_tell_what_the_answer_cost(bot: Bot, say: Say) -> None:
    finish = await say("one")
    stats = await command(bot, "/stats")
    assert isinstance(stats, Notice)
    assert str(finish.usage.prompt) in stats.text


async def test_help_lists_every_command_in_both_languages(bot: Bot, bridge: Bridge) -> None:
    english, chinese = (
        await command(bot, "/help"),
        await bot.receive(Message("h", ALONE, Author("a", "A"), "/help", language="zh-CN")),
    )
    assert isinstance(english, Notice)
    assert isinstance(chinese, Notice)
    for name, known in bridge.plugins.chat_commands.items():
        if known.admin or known.terminal_only:
            assert f"`/{name}" not in english.text
            continue
        assert f"/{name}" in english.text
        assert f"/{name}" in chinese.text
    assert english.text != chinese.text


async def test_set_refuses_what_can_not_be(bot: Bot) -> None:
    for text in (
        "/set temperature -1",
        "/set temperature true",
        "/set temperatur 1",
        "/set history maybe",
        "/set top_k many",
    ):
        with pytest.raises(CommandError, match=r"temperature|history|top_k"):
            await command(bot, text)
    answer = await command(bot, "/set temperature 0.5")
    assert isinstance(answer, Notice)
    listed = await command(bot, "/set")
    assert isinstance(listed, Notice)
    assert "temperature 0.5" in listed.text
    await command(bot, "/set temperature default")
    assert (await bot.dialogue(ALONE).settings()).sampling.temperature == 0.8


async def test_what_a_model_recommends_lies_beneath_what_is_set(tmp_path: Path, message: Make) -> None:
    told = ScriptedBackend("x")
    told.info = replace(told.info, sampling=Sampling(temperature=0.1, top_k=3))
    defaults = ChannelSettings(reply_to="always", sampling=Sampling(top_k=9))
    async with bridge_with(scripted(told), tmp_path / "store", defaults=defaults) as bridge:
        await drained(await bridge.bot("b").receive(message("hello")))
    sampling = told.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.1, 9, Sampling().top_p)


async def test_a_channel_is_answered_by_its_adapter(settings: Settings, message: Make, plugin: ToyPlugin) -> None:
    options = ToyOptions.model_validate({"adapters": {"poet": {}}})
    models = {"toy": ModelSettings("toy", "toy", options, template="chatml")}
    sung = replace(settings, models=models)
    async with Bridge(SettingsSource(sung), Plugins([plugin], discover=False)) as bridge:
        bot = bridge.bot("tester")
        plain, _ = await drained(await bot.receive(message("hello", ALONE)))
        await command(bot, "/set adapter poet", ROOM)
        poet, finish = await drained(await bot.receive(message("hello", ROOM, mentions_bot=True)))
        assert poet != plain
        assert finish is not None
        assert finish.usage.cached == 0
        await bot.dialogue(ROOM).override("adapter", "singer")  # as where the model has had it before
        with pytest.raises(InvalidRequest, match="it has poet"):
            await drained(await bot.receive(message("hello again", ROOM, mentions_bot=True)))
