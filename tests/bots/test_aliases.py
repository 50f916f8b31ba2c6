"""First words that stand for commands, and conversations that are held aside from a channel's own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import Bot, ChannelSettings, CommandError, ConfigError, Message, Notice, Plugins, ReplyStream, Settings
from chatbridge.bots.command import expand
from chatbridge.config import load

from .conftest import ALONE, Make, Say, drained, said

ALIASES = {"+": "/regenerate", "++": "/stats", "+reset": "/reset", "+hot": "/set temperature", "！重置": "/reset"}


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("+reset", "/reset"),
        ("+RESET", "/reset"),
        ("  +reset  ", "/reset"),
        ("+", "/regenerate"),
        ("++", "/stats"),
        ("+ no more", "/regenerate no more"),
        ("+hot 1.5", "/set temperature 1.5"),
        ("+hot\n1.5 and\n more", "/set temperature 1.5 and\n more"),
        ("！重置", "/reset"),
        ("+++", "+++"),
        ("+resetting", "+resetting"),
        ("please +reset", "please +reset"),
        ("1 + 1", "1 + 1"),
        ("", ""),
        ("   ", "   "),
    ],
)
def test_only_a_whole_first_word_counts(text: str, command: str) -> None:
    assert expand(text, ALIASES) == command


async def test_an_alias_does_what_its_command_does(bot: Bot, say: Say, message: Make) -> None:
    bot.services.source.current = _with_aliases(bot, ALIASES)
    first = await say("hello")
    assert isinstance(await bot.receive(message("+hot 1.5")), Notice)
    text, finish = await drained(await bot.receive(message("+")))
    assert finish is not None
    assert finish.usage.cached == first.usage.prompt - 1
    assert await said(bot) == [("user", "hello"), ("assistant", text)]
    listed = await bot.receive(message("/help"))
    assert isinstance(listed, Notice)
    assert "- `/reset`, `+reset`, `！重置`: begin a new conversation" in listed.text
    assert "- `/undo`: " in listed.text


async def test_an_alias_of_no_command_says_so(bot: Bot, message: Make) -> None:
    bot.services.source.current = _with_aliases(bot, {"+x": "/nothing"})
    with pytest.raises(CommandError, match="There is no command /nothing"):
        await bot.receive(message("+x"))


def _with_aliases(bot: Bot, aliases: dict[str, str]) -> Settings:
    settings = bot.services.settings
    return replace(settings, defaults=settings.defaults.merged(ChannelSettings(aliases=aliases)))


@pytest.mark.parametrize("written", ['{"/x": /reset}', '{"a b": /reset}', '{"+x": reset}', '{"+x": "/ reset"}'])
def test_aliases_that_can_not_be_are_told(written: str, tmp_path: Path) -> None:
    file = tmp_path / "bots.yaml"
    file.write_text(f"models: {{guide: {{backend: numpy}}}}\ndefaults:\n  aliases: {written}\n")
    with pytest.raises(ConfigError, match=r"bots\.yaml:3:"):
        load(file, Plugins())


async def test_what_is_held_aside_leaves_the_conversation_alone(bot: Bot, say: Say, message: Make) -> None:
    first = await say("hello")
    aside = bot.dialogue(ALONE, "questions")
    assert aside is bot.dialogue(ALONE, "questions")
    asked = message("what is a fox?")
    _, finish = await drained(aside.send(asked, new_with={"sampling": {"max_tokens": 5}, "template": "vicuna"}))
    assert finish is not None
    assert len(finish.reply.tokens) <= 5
    settings = await aside.settings()
    assert (settings.template, settings.model) == ("vicuna", (await bot.dialogue(ALONE).settings()).model)
    _, more = await drained(aside.regenerate())
    assert more is not None
    assert more.usage.prompt == finish.usage.prompt
    assert (await aside.path())[0].text == "what is a fox?"
    _, again = await drained(aside.send(message("another"), new_with={}))
    assert again is not None
    assert len(await aside.path()) == 2, "it began anew"
    assert len(await said(bot)) == 2
    second = await say("and now?")
    assert second.usage.cached >= first.usage.prompt + len(first.reply.tokens) - 1


async def test_stopping_stops_what_is_aside_as_well(bot: Bot, message: Make) -> None:
    aside = bot.dialogue(ALONE, "questions")
    long = {"sampling": {"max_tokens": 500, "logit_bias": {"257": -100}}}
    turn = aside.send(message("tell me all"), new_with=long)
    assert isinstance(turn, ReplyStream)
    began = asyncio.Event()

    async def listen() -> None:
        async for chunk in turn:
            if chunk.text:
                began.set()

    listening = asyncio.create_task(listen())
    await began.wait()
    stopped = await bot.receive(Message("s", ALONE, message("x").author, "/stop"))
    assert isinstance(stopped, Notice)
    assert stopped.text == "Stopped."
    await listening
    assert turn.finish is not None
    assert turn.finish.reason == "cancelled"
