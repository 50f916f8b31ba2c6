"""Slash commands, context menus and buttons, by the real library: what is put up, and what comes of using it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chatbridge_discord.commands import _essence, described, option_name

from chatbridge import ChatCommand, CommandContext
from chatbridge.config import Admins
from chatbridge.testing import DiscordServer, ScriptedBackend, channel_settings, plugin_of

from .conftest import change, talking, whole

PUT = "PUT /applications/*/commands"


async def _dance(context: CommandContext, argument: str) -> str:
    if argument == "badly":
        raise RuntimeError("fell over")
    return f"dances {argument} @everyone " + "x" * (3000 if argument == "long" else 0)


DANCE = plugin_of(
    chat_commands=[ChatCommand("dance", "dance a bit", "跳个舞", _dance, "HOW", complete=lambda _: ["well", "badly"])]
)


async def up(server: DiscordServer) -> None:
    await server.until(lambda: server.bot.commands[None] or None, what="the commands")


async def test_a_command_is_answered_to_the_person_alone(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, plugins=[DANCE], commands="global"):
        await up(roomy)
        asked = await roomy.invoke_command("dance", {"how": "well"})
        said = await roomy.answer_to(asked)
        assert (said.text, said.ephemeral, said.pings) == ("dances well @\u200beveryone", True, [])
        asked = await roomy.invoke_command("dance", {"how": "long"})
        assert len((await roomy.answer_to(asked)).text) > 3000
        asked = await roomy.invoke_command("dance", {"how": "badly"}, channel=roomy.dm())
        assert "went wrong" in (await roomy.answer_to(asked)).text
        asked = await roomy.invoke_command("stop")
        assert "Nothing" in (await roomy.answer_to(asked)).text


async def _count(context: CommandContext, argument: str) -> str:
    return "x" * int(argument)


COUNT = plugin_of(chat_commands=[ChatCommand("count", "count x", "数 x", _count, "NUMBER")])


@pytest.mark.parametrize(("length", "ordinary"), [(2000, True), (2001, False)])
async def test_a_command_is_answered_in_ordinary_text_of_2000_characters_at_most(
    roomy: DiscordServer, tmp_path: Path, length: int, ordinary: bool
) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, plugins=[COUNT], commands="global"):
        await up(roomy)
        said = await roomy.answer_to(await roomy.invoke_command("count", {"number": str(length)}))
        assert (said.text, said.content) == ("x" * length, "x" * length if ordinary else "")


async def test_a_command_that_asks_the_model_is_answered_in_the_channel(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("One.", "Two."), tmp_path, commands="global"):
        await up(roomy)
        await roomy.say(roomy.general, "count")
        await roomy.next_answer()
        asked = await roomy.invoke_command("regenerate")
        await roomy.until(lambda: [one for one in roomy.messages() if whole(one) and one.text == "Two."] or None)
        await roomy.until(lambda: (asked.response is not None and asked.response.deleted) or None)
        assert [one.text for one in roomy.messages() if not one.ephemeral] == ["One.", "Two."]


async def test_models_and_templates_are_suggested(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, plugins=[DANCE], commands="global"):
        await up(roomy)
        assert await roomy.autocomplete("model", "name", "mo") == ["model"]
        assert "alpaca" in await roomy.autocomplete("template", "name", "alp")
        assert len(await roomy.autocomplete("template", "name")) <= 25
        assert await roomy.autocomplete("dance", "how", "b") == ["badly"]
        asked = await roomy.invoke_command("template", {"name": "vicuna-v1.1"}, channel=roomy.dm())
        assert (await roomy.answer_to(asked)).text


async def test_commands_speak_the_language_of_the_client(roomy: DiscordServer, tmp_path: Path) -> None:
    roomy.person.locale = "zh-CN"
    defaults = channel_settings(language="auto")
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=defaults, commands="global"):
        await up(roomy)
        asked = await roomy.invoke_command("help")
        assert "命令" in (await roomy.answer_to(asked)).text
    told = {one["name"]: one for one in roomy.bot.commands[None].values()}
    assert told["help"]["description_localizations"]["zh-CN"] == "列出全部命令"
    assert told["Regenerate"]["name_localizations"]["zh-CN"] == "重新回答"
    assert {"save", "load"}.isdisjoint(told)


async def test_commands_for_admins_are_refused_to_others(roomy: DiscordServer, tmp_path: Path) -> None:
    boss = roomy.add_person("boss")
    roomy.join(roomy.guild, boss)
    own = {"admins": Admins(users={str(boss.id)})}
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, own=own, commands="global"):
        await up(roomy)
        refused = await roomy.answer_to(await roomy.invoke_command("usage"))
        taken = await roomy.answer_to(await roomy.invoke_command("usage", user=boss))
        assert ("admins" in refused.text, "admins" in taken.text) == (True, False)


async def test_context_menus_work_on_messages_of_both_sides(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("One.", "Two.", "Three."), tmp_path, commands="global"):
        await up(roomy)
        asked = await roomy.say(roomy.general, "count")
        first = await roomy.next_answer()
        await roomy.invoke_on_message("Regenerate", asked)
        await roomy.until(lambda: [one for one in roomy.messages() if one.text == "Two." and whole(one)] or None)
        branched = await roomy.answer_to(await roomy.invoke_on_message("Branch from here", first))
        assert branched.text
        assert branched.ephemeral
        stranger = await roomy.say(roomy.general, "beep", author=roomy.add_bot("other").user)
        told = await roomy.answer_to(await roomy.invoke_on_message("Continue", stranger))
        assert told.text


async def test_buttons_go_on_with_an_answer_and_old_ones_say_so(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("One", "Two.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, "count")
        first = await roomy.next_answer()
        pressed = await roomy.click(first, "Branch from here")
        await roomy.until(lambda: pressed.followups or None)
        assert pressed.followups[0].ephemeral
        first.components[0]["components"][0]["custom_id"] = "nonsense"
        pressed = await roomy.click(first, "nonsense")
        await roomy.until(lambda: pressed.followups or None)
        assert "went wrong" in pressed.followups[0].text
        first.components[0]["components"][0]["custom_id"] = "stop"
        pressed = await roomy.click(first, "stop")
        await roomy.until(lambda: pressed.followups or None)
        assert "Nothing" in pressed.followups[0].text


@pytest.mark.parametrize("fault", ["reset", "lose_answer", "nested", "malformed"])
async def test_a_first_answer_that_fails_is_given_again(
    roomy: DiscordServer, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, commands="global"):
        await up(roomy)
        getattr(roomy.faults, fault)("POST /interactions/*")
        asked = await roomy.invoke_command("help")
        assert "/regenerate" in (await roomy.answer_to(asked)).text
        roomy.faults.reset("PATCH /webhooks/*")
        asked = await roomy.invoke_command("help")
        assert "/regenerate" in (await roomy.answer_to(asked)).text
    assert roomy.faults.pending == 0
    assert "Traceback" not in caplog.text


async def test_commands_are_answered_in_time_while_the_model_is_busy(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("one two three")
    backend.hold = asyncio.Event()
    async with talking(roomy, backend, tmp_path, commands="global"):
        await up(roomy)
        await roomy.say(roomy.general, "count")
        await roomy.next_message()
        asked = [await roomy.invoke_command("help") for _ in range(20)]
        for one in asked:
            assert (await roomy.answer_to(one)).text
            assert not roomy.failed(one)


# --- what is put up ------------------------------------------------------------------------------------------------


async def test_commands_are_put_up_only_where_they_have_changed(roomy: DiscordServer, tmp_path: Path) -> None:
    for plugins, count in (([], 1), ([], 1), ([DANCE], 2), ([DANCE], 2)):
        seen = len(roomy.calls.to("GET /applications/*/commands"))
        async with talking(roomy, ScriptedBackend("Yes."), tmp_path, plugins=plugins, commands="global"):
            await roomy.calls.wait("GET /applications/*/commands", seen + 1)
            if len(roomy.calls.to(PUT)) < count:
                await roomy.calls.wait(PUT, count)
            await roomy.say(roomy.dm(), "hello")
            await roomy.next_answer(roomy.dm())
        assert len(roomy.calls.to(PUT)) == count


async def test_commands_can_be_put_up_in_each_server(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, commands="guilds"):
        await roomy.until(lambda: roomy.bot.commands.get(roomy.guild.id) or None)
        second = roomy.add_guild("second")
        roomy.join(second, roomy.bot.user)
        await roomy.until(lambda: roomy.bot.commands.get(second.id) or None)
    assert not roomy.bot.commands[None]


async def test_commands_that_are_put_up_elsewhere_now_are_not_left_behind(roomy: DiscordServer, tmp_path: Path) -> None:
    known = roomy.bot.commands
    for where in ("guilds", "global"):
        async with talking(roomy, ScriptedBackend("Yes."), tmp_path, commands=where):
            own, other = (roomy.guild.id, None) if where == "guilds" else (None, roomy.guild.id)
            await roomy.until(
                lambda own=own, other=other: (bool(known.get(own)) and not known.get(other)) or None, what=where
            )


async def test_a_server_that_does_not_take_commands_stops_nothing(hasty: DiscordServer, tmp_path: Path) -> None:
    hasty.faults.rate_limit("GET /applications/*", 0.5)
    async with talking(hasty, ScriptedBackend("Yes."), tmp_path, commands="global") as bridge:
        change(bridge)
        await hasty.say(hasty.general, "hello")
        assert (await hasty.next_answer()).text == "Yes."
        await up(hasty)


def test_names_of_options() -> None:
    names = [option_name(argument) for argument in ("[NAME]", "KEY VALUE", "2d6", "文本", "…")]
    assert names == ["name", "key_value", "2d6", "文本", "argument"]


def test_the_same_commands_are_known_however_discord_tells_of_them() -> None:
    wanted = described(DANCE.register_chat_commands())
    told = [dict(reversed(one.items())) | {"id": "1", "version": "2", "nsfw": False} for one in reversed(wanted)]
    for one in told:
        for names in ("description_localizations", "name_localizations"):
            one[names] = dict(reversed(one.get(names, {}).items())) or None
        for option in one.get("options", []):
            one["options"] = [{key: value for key, value in option.items() if value}]
    assert _essence(told) == _essence(wanted)
    told[0]["name"] = "other"
    assert _essence(told) != _essence(wanted)


def test_what_discord_does_not_take_is_left_out() -> None:
    commands = [ChatCommand(name, "x" * 200, "字" * 200, _dance) for name in ("good", "Bad", "w" * 40)]
    told = described(commands)
    assert [one["name"] for one in told if one["type"] == 1] == ["good"]
    assert len(told[0]["description"]) == len(told[0]["description_localizations"]["zh-CN"]) == 100


@pytest.mark.parametrize("way", ["a slash command", "a menu"])
async def test_what_an_end_of_the_program_interrupts_goes_on_at_the_next_start(
    roomy: DiscordServer, tmp_path: Path, way: str
) -> None:
    first, second = ScriptedBackend("One.", "Two and more"), ScriptedBackend("Three.")
    async with talking(roomy, first, tmp_path, commands="global"):
        await up(roomy)
        await roomy.say(roomy.general, "count")
        said = await roomy.next_answer()
        first.hold = asyncio.Event()
        if way == "a menu":
            await roomy.invoke_on_message("Regenerate", said)
        else:
            await roomy.invoke_command("regenerate")
        await roomy.until(lambda: [one for one in roomy.messages() if one.text == "Two"] or None)
    async with talking(roomy, second, tmp_path, commands="global"):
        await roomy.until(lambda: [one for one in roomy.messages() if whole(one) and one.text == "Three."] or None)
    assert [one.text for one in roomy.messages() if not one.ephemeral] == ["One.", "Three."]
