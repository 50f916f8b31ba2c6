"""One decision for every way in: by random rules, and by everything that a bot can be asked to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import Author, Channel, CommandError, Options, ReplyStream
from chatbridge.bots.permissions import CHANGES, GROUP_ADMIN_COMMANDS, Wish, decide
from chatbridge.config import Access, Admins, BotSettings
from chatbridge.texts import say

from .served import ANN, BOB, GROUP, PRIVATE, WAYS, serving

ADMINS = Admins(users={"boss"})
BOSS = Author("boss", "Boss")


# --- the decision ----------------------------------------------------------------------------------------------------

IDS = st.frozensets(st.sampled_from(["a", "b", "boss", "-100"]), max_size=2)
ROLES = st.frozensets(st.sampled_from(["crew", "muted"]), max_size=1)
PLACES = st.frozensets(st.sampled_from(["g", "town"]), max_size=1)
ACCESS = st.builds(Access, users=IDS, roles=ROLES, channels=PLACES)
RULES = st.builds(
    lambda **fields: BotSettings("bot", "fake", Options(), **fields),
    allow=ACCESS,
    deny=ACCESS,
    admins=st.builds(Admins, users=IDS),
    admin_commands=st.none() | st.frozensets(st.sampled_from(["regenerate", "model", "stop"]), max_size=2),
    pairing=st.booleans(),
    anonymous=st.sampled_from(["auto", "answer", "refuse"]),
)
AUTHORS = st.builds(
    Author,
    id=st.sampled_from(["a", "b", "boss", "-100"]),
    name=st.just("N"),
    roles=st.sampled_from([(), ("crew",), ("muted", "crew")]),
    anonymous=st.booleans(),
)
CHANNELS = st.sampled_from(
    [GROUP, PRIVATE, Channel("t", kind="group", parent="g"), Channel("terminal", kind="terminal")]
)
ACTIONS = st.sampled_from(["", *sorted(CHANGES | GROUP_ADMIN_COMMANDS), "help", "usage"])
WISHES = st.builds(
    Wish, AUTHORS, CHANNELS, ACTIONS, st.booleans(), st.sampled_from(["", "a", "b", "boss"]), st.booleans()
)


@given(RULES, WISHES, st.booleans())
def test_who_is_denied_may_do_nothing_by_no_way(rules: BotSettings, wish: Wish, paired: bool) -> None:
    author, channel, deny = wish.author, wish.channel, rules.deny
    denied = author.id in deny.users or deny.roles & set(author.roles) or {channel.id, channel.parent} & deny.channels
    hidden = author.anonymous and rules.anonymous != "answer" and author.id not in rules.allow.users
    if denied or (hidden and (deny.users or deny.roles or rules.anonymous == "refuse")):
        verdict = decide(rules, wish, paired=paired)
        assert (verdict.allowed, verdict.reason, verdict.pairable) == (False, "not_permitted", False)


@given(RULES, WISHES, st.booleans())
def test_admin_commands_are_for_admins_and_the_terminal(rules: BotSettings, wish: Wish, paired: bool) -> None:
    allowed = decide(rules, wish, paired=paired).allowed
    if allowed and (wish.admin or wish.action in (rules.admin_commands or ())):
        assert rules.admins.names(wish.author) or wish.channel.kind == "terminal"


@given(RULES, WISHES, st.booleans())
def test_an_answer_in_a_group_is_changed_by_its_asker_and_admins(rules: BotSettings, wish: Wish, paired: bool) -> None:
    if not decide(rules, wish, paired=paired).allowed or wish.action not in CHANGES or wish.channel.kind != "group":
        return
    theirs = wish.asker in ("", wish.author.id)
    assert theirs or wish.open_to_all or rules.admins.names(wish.author)


@given(RULES, WISHES)
def test_nothing_but_being_let_in_is_opened_by_a_code(rules: BotSettings, wish: Wish) -> None:
    verdict = decide(rules, wish)
    assert not (verdict.allowed and verdict.pairable)
    if verdict.pairable:
        assert rules.pairing
        assert decide(rules, wish, paired=True).reason != "not_permitted"


# --- every way to a bot ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_whoever_is_denied_gets_nothing_by_any_way(tmp_path: Path, way: str) -> None:
    async with serving(tmp_path, deny=Access(users={"b"})) as served:
        asked, head = len(served.backend.requests), (await served.bot.dialogue(GROUP).path())[-1].id
        assert not await WAYS[way](served, BOB)
        assert len(served.backend.requests) == asked
        assert (await served.bot.dialogue(GROUP).path())[-1].id == head
        assert served.fetched == 0


# --- commands of admins ----------------------------------------------------------------------------------------------


async def test_admin_commands_bind_the_buttons_that_do_the_same(tmp_path: Path) -> None:
    bound = frozenset({"regenerate", "continue", "branch", "stop", "edit"})
    async with serving(tmp_path, ("one", "two"), admins=ADMINS, admin_commands=bound) as served:
        for action in ("regenerate", "continue", "branch"):
            for said in (await served.press(action, ANN), await served.say(f"/{action}")):
                assert said == say("en", "admins_only", name=action)
        assert await served.press("answer", ANN) == say("en", "admins_only", name="edit")
        assert await served.stop(ANN) == say("en", "admins_only", name="stop")
        assert len(served.backend.requests) == 1
        assert await served.press("regenerate", BOSS) == "two"


@pytest.mark.parametrize(
    ("own", "channel", "open_to_all"),
    [
        ({"admins": ADMINS}, GROUP, False),
        ({"admins": ADMINS}, PRIVATE, True),
        ({}, GROUP, True),
        ({"admins": ADMINS, "admin_commands": frozenset()}, GROUP, True),
        ({"admins": ADMINS, "admin_commands": frozenset(GROUP_ADMIN_COMMANDS)}, PRIVATE, False),
    ],
)
async def test_what_changes_everybodys_conversation_is_for_admins_where_some_are_named(
    tmp_path: Path, own: dict[str, Any], channel: Channel, open_to_all: bool
) -> None:
    async with serving(tmp_path, **own) as served:
        menu = {command.name: command.admin for command in served.bot.commands_in(channel.kind)}
        help_text = str(await served.say("/help", ANN, channel))
        for name in sorted(GROUP_ADMIN_COMMANDS):
            refused = await served.say(f"/{name}", ANN, channel) == say("en", "admins_only", name=name)
            assert refused is not open_to_all
            assert (
                await served.say(f"/{name}", BOSS, channel) != say("en", "admins_only", name=name)
                or "admins" not in own
            )
            assert menu[name] is not open_to_all
            assert (f"`/{name} " in help_text) is open_to_all
        for name in ("model", "template"):
            suggested = await served.bot.completions(name, served.message("", ANN, channel))
            assert bool(suggested) is open_to_all


# --- whose an answer is ----------------------------------------------------------------------------------------------


async def test_in_a_group_only_the_asker_and_admins_change_an_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, tuple("12345"), admins=ADMINS) as served:
        refused = say("en", "not_yours")
        for action in ("regenerate", "continue", "branch", "answer"):
            assert await served.press(action, BOB) == refused
        for command in ("/regenerate", "/continue", "/undo", "/edit mine", "+again"):
            assert await served.say(command, BOB) == refused
        node = (await served.bot.dialogue(GROUP).path())[-1].id
        assert await served.say(f"/branch {node}", BOB) == refused
        assert await served.stop(BOB) == refused
        assert [turn.text for turn in await served.bot.dialogue(GROUP).path()] == ["hello", "1"]
        assert await served.press("regenerate", ANN) == "2"
        assert await served.press("regenerate", BOSS) == "3"
        assert await served.say("/regenerate") == "4"
        assert await served.say(f"/branch {node}") == say("en", "branch_taken", id=str(node))


async def test_a_setting_opens_answers_to_everyone(tmp_path: Path) -> None:
    async with serving(tmp_path, tuple("123"), change_answers="everyone") as served:
        assert await served.press("regenerate", BOB) == "2"
        assert await served.say("/undo", BOB) == say("en", "undone", text="hello")


async def test_what_is_changed_is_judged_when_its_turn_comes(tmp_path: Path) -> None:
    async with serving(tmp_path, tuple("123")) as served:
        await served.say("Bob's", BOB)
        again = await served.bot.receive(served.message("/regenerate", BOB))  # his own, as it is now
        assert isinstance(again, ReplyStream)
        await served.say("Ann's")
        with pytest.raises(CommandError, match="somebody else"):
            [chunk async for chunk in again]


async def test_nobody_puts_words_into_the_mouth_of_another(tmp_path: Path) -> None:
    async with serving(tmp_path, tuple("12"), change_answers="everyone") as served:
        await served.say("/edit I am a fool", BOB)
        asked = (await served.bot.dialogue(GROUP).path())[0]
        assert (asked.text, asked.name, asked.author) == ("I am a fool", "Bob", "b")


async def test_stop_leaves_the_answers_of_others_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, ("one", "two words")) as served:
        served.backend.hold = asyncio.Event()
        stream = await served.bot.receive(served.message("go on", ANN))
        assert isinstance(stream, ReplyStream)
        chunks = aiter(stream)
        first = await anext(chunks)
        assert await served.say("/stop", BOB) == say("en", "not_yours")
        assert await served.say("/stop", ANN) == say("en", "stopped")
        served.backend.hold.set()
        rest = [chunk async for chunk in chunks]
        assert (rest[-1].finish or first.finish).reason == "cancelled"  # type: ignore[union-attr]


async def test_where_each_person_has_a_conversation_another_persons_button_opens_ones_own(tmp_path: Path) -> None:
    async with serving(tmp_path, tuple("1234567"), scope="user", admins=ADMINS) as served:
        anns, bobs = (served.bot._dialogue(f"g/{id}", GROUP) for id in "ab")
        assert await served.press("regenerate", BOB) == "2"
        assert [node.text for node in await bobs.path()] == ["hello", "2"]
        assert await served.press("branch", BOB) == say("en", "branched")
        assert [node.text for node in await bobs.path()] == ["hello", "1"]
        assert await served.say("and?", BOB) == "3"
        assert [node.text for node in await bobs.path()] == ["hello", "1", "and?", "3"]
        assert [(node.text, node.author) for node in await anns.path()] == [("hello", "a"), ("1", "")]
        await served.note("bobs", key="g/b")
        assert await served.press("regenerate", BOB, at="bobs") == "4"
        assert await served.press("answer", BOB) == say("en", "not_yours")
        assert await served.stop(BOB) == say("en", "not_yours")


async def test_nobody_can_tell_whose_an_answer_to_a_hidden_person_is(tmp_path: Path) -> None:
    hidden = Author("-100", "Town", anonymous=True)
    async with serving(tmp_path, tuple("123")) as served:
        await served.say("hello from the channel", hidden)
        await served.note()
        assert await served.press("regenerate", BOB) == "3"
