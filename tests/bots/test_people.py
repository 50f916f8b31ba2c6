"""Who may ask, and how much: allow and deny, admins, pairing, limits."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from chatbridge import Author, Bot, Channel, ChannelSettings, CommandError, Message, Notice, Options, Press, ReplyStream
from chatbridge.config import Access, Admins, BotSettings, Quota
from chatbridge.testing import ScriptedBackend, bridge_with, scripted
from chatbridge.texts import say

GROUP, PRIVATE = Channel("g", kind="group", parent="house", guild="town"), Channel("p")
ANN, BOSS = Author("a", "Ann", roles=("player",)), Author("b", "Boss", roles=("chief",))
NOON = datetime(2026, 5, 4, 12, 0, 0).timestamp()


class Time:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(folder: Path, time: Time | None = None, **settings: Any) -> AsyncIterator[Bot]:
    own = BotSettings("bot", "fake", Options(), **settings)
    defaults = ChannelSettings(language="en")
    async with bridge_with(
        scripted(ScriptedBackend("one two three")),
        folder / "db",
        defaults=defaults,
        bots=[own],
        clock=time or Time(),
        monotonic=time or Time(),
    ) as bridge:
        yield bridge.bot("bot")


_ids = iter(range(10**6))


async def ask(bot: Bot, text: str, author: Author = ANN, channel: Channel = PRIVATE) -> str | None:
    """What comes back: the model's answer, a text, or nothing."""
    message = Message(str(next(_ids)), channel, author, text, mentions_bot=True)
    try:
        result = await bot.receive(message)
    except CommandError as error:
        return str(error)
    if isinstance(result, ReplyStream):
        return "".join([chunk.text async for chunk in result])
    return result.text if isinstance(result, Notice) else None


def access(**ids: str) -> Access:
    return Access(**{kind: frozenset(id.split()) for kind, id in ids.items()})


@pytest.mark.parametrize(
    ("allow", "deny", "heard"),
    [
        ({}, {}, True),
        ({"users": "a"}, {}, True),
        ({"users": "x"}, {}, False),
        ({"roles": "player"}, {}, True),
        ({"roles": "chief"}, {}, False),
        ({"users": "x", "roles": "player"}, {}, True),
        ({"channels": "g"}, {}, True),
        ({"channels": "house"}, {}, True),
        ({"channels": "x"}, {}, False),
        ({"guilds": "town"}, {}, True),
        ({"guilds": "x"}, {}, False),
        ({"guilds": "x", "channels": "g"}, {}, True),
        ({"users": "a", "guilds": "x"}, {}, False),
        ({}, {"users": "a"}, False),
        ({}, {"roles": "player"}, False),
        ({}, {"channels": "house"}, False),
        ({}, {"guilds": "town"}, False),
        ({"users": "a"}, {"guilds": "town"}, False),
        ({}, {"users": "x", "roles": "chief", "channels": "x", "guilds": "x"}, True),
    ],
)
async def test_allow_and_deny(tmp_path: Path, allow: dict[str, str], deny: dict[str, str], heard: bool) -> None:
    async with serving(tmp_path, allow=access(**allow), deny=access(**deny)) as bot:
        assert await ask(bot, "hello", channel=GROUP) == ("one two three" if heard else None)
        assert (await ask(bot, "/help", channel=GROUP) is not None) == heard


async def test_a_channel_without_a_guild_is_in_none(tmp_path: Path) -> None:
    async with serving(tmp_path, allow=access(guilds="town")) as bot:
        assert await ask(bot, "hello") is None


# --- admins ----------------------------------------------------------------------------------------------------------


async def test_admin_commands_are_for_admins(tmp_path: Path) -> None:
    admins = Admins(roles=frozenset({"chief"}))
    async with serving(tmp_path, admins=admins, admin_commands=frozenset({"model"})) as bot:
        assert await ask(bot, "/usage") == say("en", "admins_only", name="usage")
        assert await ask(bot, "/model") == say("en", "admins_only", name="model")
        assert await ask(bot, "/usage", BOSS) == say("en", "usage_none")
        assert "Model:" in str(await ask(bot, "/model", BOSS))
        assert "`/usage`" not in str(await ask(bot, "/help"))
        assert "`/usage`" in str(await ask(bot, "/help", BOSS))
        menu = {command.name: command.admin for command in bot.commands}
        assert menu["model"]
        assert menu["pair"]
        assert not menu["help"]
        assert "save" not in menu


async def test_completions_are_what_fits_best_first(tmp_path: Path) -> None:
    async with serving(tmp_path, deny=access(users="x")) as bot:

        async def complete(name: str, typed: str, author: Author = ANN) -> list[str]:
            return await bot.completions(name, Message("i", PRIVATE, author, typed))

        assert await complete("model", "") == ["model"]
        found = await complete("template", "ALP")
        assert found[0] == "alpaca"
        assert all("alp" in name for name in found)
        assert found.index("alpaca-lora") < found.index("chinese-alpaca")
        assert await complete("reset", "") == []
        assert await complete("nonsense", "") == []
        assert await complete("model", "", Author("x", "X")) == []


# --- pairing ---------------------------------------------------------------------------------------------------------


async def test_nobody_is_heard_before_an_admin_lets_them_in(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"pairing": True, "admins": Admins(users=frozenset({"b"}))}
    async with serving(tmp_path, **settings) as bot:
        told = await ask(bot, "hello")
        assert told is not None
        found = re.search(r"/pair (\w{8})$", told)
        assert found is not None
        assert await ask(bot, "/help") is None, "told once"
        assert await ask(bot, "hello", channel=GROUP) is None
        assert await ask(bot, "/help", channel=GROUP) is None
        assert await ask(bot, "hello", Author("r", "Robot", is_bot=True)) is None
        assert await ask(bot, "/pair nonsense", BOSS) == say("en", "no_such_code", code="nonsense")
        assert f"/pair {found[1]}" in str(await ask(bot, "/pair", BOSS))
        assert await ask(bot, f"/pair {found[1].lower()}", BOSS) == say("en", "pair_done", name="Ann")
        assert await ask(bot, "hello") == "one two three"
        assert "let in" in str(await ask(bot, "/pair", BOSS))
    async with serving(tmp_path, **settings) as bot:
        assert await ask(bot, "hello") == "one two three"
        assert await ask(bot, "/unpair a", BOSS) == say("en", "unpaired", user="a")
        assert "/pair" in str(await ask(bot, "hello"))
        assert await ask(bot, "/unpair zz", BOSS) == say("en", "no_such_person", user="zz")


async def test_those_who_were_let_in_are_listed_before_those_who_wait(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"pairing": True, "admins": Admins(users=frozenset({"b"}))}
    async with serving(tmp_path, **settings) as bot:
        assert await ask(bot, "/pair", BOSS) == say("en", "nobody_asked")
        for name in ("Early", "In", "Late"):
            await ask(bot, "hello", Author(name.lower(), name))
        await ask(bot, "/pair in", BOSS)
        people = {person.user: person for person in await bot.permissions.pairings.all("bot")}
        assert await ask(bot, "/pair", BOSS) == "\n".join(
            [
                say("en", "people"),
                say("en", "pair_listed", name="In", user="in", code=people["in"].code),
                say("en", "pair_waiting", name="Early", user="early", code=people["early"].code),
                say("en", "pair_waiting", name="Late", user="late", code=people["late"].code),
            ]
        )


async def test_pairing_opens_no_place_that_is_closed(tmp_path: Path) -> None:
    closed: dict[str, Any] = {"allow": access(channels="elsewhere"), "deny": access(users="x")}
    async with serving(tmp_path, pairing=True, **closed) as bot:
        assert await ask(bot, "hello") is None
        person = await bot.permissions.pairings.request("bot", ANN)
        assert person is not None
        await bot.permissions.pairings.pair("bot", person.code, "b")
        assert await ask(bot, "hello") is None
        assert await ask(bot, "hello", channel=Channel("elsewhere")) == "one two three"
        assert await ask(bot, "hello", Author("x", "X"), Channel("elsewhere")) is None


async def test_whom_allow_names_needs_no_pairing(tmp_path: Path) -> None:
    async with serving(tmp_path, pairing=True, allow=access(users="a")) as bot:
        assert await ask(bot, "hello") == "one two three"
        assert "/pair" in str(await ask(bot, "hello", Author("c", "C")))


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_messages_a_minute(tmp_path: Path) -> None:
    time = Time()
    async with serving(
        tmp_path, time, limits=Quota(messages_per_minute=2), admins=Admins(users=frozenset({"b"}))
    ) as bot:
        assert await ask(bot, "hello") == "one two three"
        time.now += 20
        assert await ask(bot, "hello") == "one two three"
        time.now += 10
        assert await ask(bot, "hello") == say("en", "messages_per_minute", limit=2, wait="30 s")
        assert await ask(bot, "hello") is None, "told once"
        assert await ask(bot, "/help") is not None, "commands that cost nothing are free"
        assert await ask(bot, "/regenerate") == say("en", "messages_per_minute", limit=2, wait="30 s")
        with pytest.raises(CommandError):
            await bot.press(Press("regenerate", await noted(bot), PRIVATE, ANN))
        # What the end of the program interrupted was within the limit when it was asked.
        assert isinstance(
            await bot.press(Press("regenerate", await noted(bot), PRIVATE, ANN), redelivered=True), ReplyStream
        )
        repeated = Message("99", PRIVATE, ANN, "/regenerate")
        assert isinstance(await bot.receive(repeated, redelivered=True), ReplyStream)
        assert await ask(bot, "hello", Author("c", "C")) == "one two three"
        for _ in range(5):
            assert await ask(bot, "hello", BOSS) == "one two three"
        time.now += 31
        assert await ask(bot, "hello") == "one two three"
        assert await ask(bot, "hello") == say("en", "messages_per_minute", limit=2, wait="19 s"), "told anew"


async def noted(bot: Bot) -> str:
    node = (await bot.dialogue(PRIVATE).path())[-1]
    await bot.message_index.note("bot", PRIVATE.id, "m", node.id)
    return "m"


async def test_tokens_a_day(tmp_path: Path) -> None:
    time = Time()
    settings: dict[str, Any] = {"limits": Quota(tokens_per_day=1), "admins": Admins(users=frozenset({"b"}))}
    async with serving(tmp_path, time, **settings) as bot:
        assert await ask(bot, "hello") == "one two three"
        spent = await bot.permissions.usage.tokens("bot", "a", "2026-05-04")
        assert spent > 3  # the prompt's tokens count, too
    async with serving(tmp_path, time, **settings) as bot:  # a restart forgets nothing
        time.now += 3600
        assert await ask(bot, "hello") == say("en", "tokens_per_day", limit=1, wait="11 h")
        assert await ask(bot, "hello") is None
        assert await ask(bot, "hello", BOSS) == "one two three"
        listed = await ask(bot, "/usage", BOSS)
        assert f"`Ann` (a): {spent} tokens, 1 answers" in str(listed)
        time.now += 11 * 3600
        assert await ask(bot, "hello") == "one two three"


async def test_what_was_cached_costs_nothing(tmp_path: Path) -> None:
    from chatbridge import Usage

    async with serving(tmp_path) as bot:
        await bot.permissions.settle(ANN, PRIVATE, Usage(prompt=100, cached=90, generated=7), None)
        assert await bot.permissions.usage.tokens("bot", "a", "2026-05-04") == 17
