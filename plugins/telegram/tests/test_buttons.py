"""The buttons under answers, and the menu of commands, by the real library."""

from __future__ import annotations

from pathlib import Path

from chatbridge import ChatCommand, CommandContext
from chatbridge.config import Admins
from chatbridge.testing import ScriptedBackend, TelegramServer, channel_settings, plugin_of

from .conftest import talking


def actions(message: object) -> list[str]:
    return [button["callback_data"] for row in message.keyboard for button in row]  # type: ignore[attr-defined]


async def test_an_answer_is_given_again_continued_and_branched_from(roomy: TelegramServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("One.", "Two.", "Three.", "Four.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.private(), "count")
        first = await roomy.next_answer()
        assert actions(first)[0] == "regenerate"
        query = await roomy.press(first, "regenerate")
        second = await roomy.next_answer()
        assert (first.text, second.text, query.answered) == ("One.", "Two.", True)
        query = await roomy.press(first, "branch")
        await roomy.until(lambda: query.answered or None)
        assert query.text
        await roomy.say(roomy.private(), "go on")
        await roomy.next_answer()
        said = [turn.text for turn in backend.requests[2].turns if turn.role != "system"]
        assert said == ["count", "One.", "go on"]


async def test_the_press_of_an_old_button_is_answered_with_words(roomy: TelegramServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("One."), tmp_path):
        await roomy.say(roomy.private(), "count")
        shown = await roomy.next_answer()
        shown.keyboard = [[{"text": "x", "callback_data": "nonsense"}, {"text": "Stop", "callback_data": "stop"}]]
        unknown = await roomy.press(shown, "x")
        stale = await roomy.press(shown, "Stop")
        await roomy.until(lambda: (unknown.answered and stale.answered) or None)
        assert (unknown.text, bool(stale.text)) == ("", True)


async def test_buttons_can_be_switched_off(roomy: TelegramServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("One."), tmp_path, defaults=channel_settings(buttons=False)):
        await roomy.say(roomy.private(), "count")
        assert actions(await roomy.next_answer()) == []


async def _dance(context: CommandContext, argument: str) -> str:
    return f"dances {argument}"


DANCE = plugin_of(chat_commands=[ChatCommand("dance", "dance a bit", "跳个舞", _dance, "HOW")])


async def test_the_menu_has_all_commands_in_both_languages(roomy: TelegramServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("One."), tmp_path, plugins=[DANCE]):
        await roomy.calls.wait("setMyCommands", 2)
        english, chinese = (
            {one["command"]: one["description"] for one in commands} for commands in roomy.bot.commands.values()
        )
        assert (english["dance"], chinese["dance"]) == ("dance a bit", "跳个舞")
        assert english.keys() == chinese.keys() >= {"help", "reset", "regenerate", "model"}
        assert english.keys().isdisjoint({"save", "load", "pair"})
        await roomy.say(roomy.private(), "/dance well")
        assert (await roomy.next_answer()).text == "dances well"


async def test_the_menu_is_put_up_only_where_it_has_changed(roomy: TelegramServer, tmp_path: Path) -> None:
    for _ in range(2):
        async with talking(roomy, ScriptedBackend("One."), tmp_path):
            await roomy.say(roomy.private(), "/help")
            await roomy.next_answer()
    assert len(roomy.calls.to("setMyCommands")) == 2


async def test_admins_see_their_commands_in_their_own_chat(roomy: TelegramServer, tmp_path: Path) -> None:
    boss = roomy.person
    admins = Admins(users={str(boss.id), "4242"})  # the second has not written yet
    async with talking(roomy, ScriptedBackend("One."), tmp_path, own={"admins": admins}):
        await roomy.say(roomy.private(), "hello")
        await roomy.next_answer()
    menus = {scope: {one["command"] for one in commands} for scope, commands in roomy.bot.commands.items()}
    assert menus[f"{boss.id} chat"] == menus["default"] | {"pair", "unpair", "usage"}


async def test_a_menu_that_can_not_be_put_up_stops_nothing(roomy: TelegramServer, tmp_path: Path) -> None:
    roomy.faults.error("getMyCommands", 500, times=10)
    async with talking(roomy, ScriptedBackend("One."), tmp_path):
        await roomy.say(roomy.private(), "hello")
        assert (await roomy.next_answer()).text == "One."
