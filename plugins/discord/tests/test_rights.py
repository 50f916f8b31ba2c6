"""Every way to a bot in Discord asks who may do what: one who is denied gets nothing, and no token is spent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import discord
import pytest
from chatbridge_discord.commands import MENUS

from chatbridge import Channel as Place
from chatbridge.config import Access, Admins
from chatbridge.testing import DiscordServer, ScriptedBackend, channel_settings
from chatbridge.testing.discord.state import Message, User

from .conftest import change, talking, whole

Way = Callable[[DiscordServer, User, Message, Message], Awaitable[object]]

NOT = "You may not use this bot here."


async def _invoked(roomy: DiscordServer, asked: Awaitable[Any]) -> None:
    assert (await roomy.answer_to(await asked)).text == NOT


async def _clicked(roomy: DiscordServer, asked: Awaitable[Any]) -> None:
    interaction = await asked
    await roomy.until(lambda: interaction.followups or None)
    assert interaction.followups[0].text == NOT


async def _edit(roomy: DiscordServer, mallory: User, shown: Message, theirs: Message) -> None:
    await roomy.edit(theirs, "/regenerate")


async def _suggested(roomy: DiscordServer, mallory: User, shown: Message, theirs: Message) -> None:
    assert await roomy.autocomplete("model", "name", "", user=mallory) == []


async def _threaded(roomy: DiscordServer, mallory: User, shown: Message, theirs: Message) -> None:
    thread = await roomy.start_thread(roomy.general, "side", author=mallory)
    await roomy.say(thread, "hello", author=mallory, mention=True)


WAYS: dict[str, Way] = {
    "a message": lambda r, m, s, t: r.say(r.general, "hello", author=m, mention=True),
    "a private message": lambda r, m, s, t: r.say(r.dm(m), "hello", author=m),
    "a reply": lambda r, m, s, t: r.say(r.general, "hello", author=m, reply_to=s),
    "a thread": _threaded,
    "a typed command": lambda r, m, s, t: r.say(r.general, "/regenerate", author=m),
    "an alias": lambda r, m, s, t: r.say(r.general, "+again", author=m),
    "an edit": _edit,
    "suggestions": _suggested,
    "a slash command": lambda r, m, s, t: _invoked(r, r.invoke_command("regenerate", user=m)),
    "a private slash command": lambda r, m, s, t: _invoked(r, r.invoke_command("model", user=m, channel=r.dm(m))),
    "a button": lambda r, m, s, t: _clicked(r, r.click(s, "regenerate", user=m)),
    "the button branch": lambda r, m, s, t: _clicked(r, r.click(s, "branch", user=m)),
}
WAYS |= {
    f"the menu {name}": lambda r, m, s, t, name=name: _invoked(r, r.invoke_on_message(name, s, user=m))
    for name in MENUS
}


def test_these_are_all_kinds_of_interactions() -> None:
    # Pings are none of a person's, and the bot shows no forms.
    kinds = {kind.name for kind in discord.InteractionType} - {"ping", "modal_submit"}
    assert kinds == {"application_command", "component", "autocomplete"}


@pytest.mark.parametrize("by", ["user", "role"])
@pytest.mark.parametrize("way", WAYS)
async def test_whoever_is_denied_gets_nothing_by_any_way(
    roomy: DiscordServer, tmp_path: Path, way: str, by: str
) -> None:
    backend, mallory = ScriptedBackend("One.", "Two."), roomy.add_person("mallory")
    roomy.join(roomy.guild, mallory)
    muted = roomy.add_role("muted", mallory)
    denied = Access(users={str(mallory.id)}) if by == "user" else Access(roles={str(muted.id)})
    defaults = channel_settings(reply_to="mentions", aliases={"+again": "/regenerate"})
    async with talking(roomy, backend, tmp_path, defaults=defaults, own={"deny": denied}, commands="global") as bridge:
        await roomy.until(lambda: roomy.bot.commands[None] or None, what="the commands")
        theirs = await roomy.say(roomy.general, "unanswered", author=mallory, mention=True)
        await roomy.say(roomy.general, "count", mention=True)
        shown = await roomy.next_answer()
        dialogue = bridge.bot("bot").dialogue(Place(str(roomy.general.id), kind="group"))
        path = await dialogue.path()
        await WAYS[way](roomy, mallory, shown, theirs)
        await roomy.say(roomy.general, "the next", mention=True)
        await roomy.until(lambda: [one for one in roomy.messages() if one.text == "Two." and whole(one)] or None)
        assert [request.turns[-1].text for request in backend.requests] == ["count", "the next"]
        assert [node.id for node in (await dialogue.path())[: len(path)]] == [node.id for node in path]
        private = [one.text for one in roomy.messages(roomy.dm(mallory)) if one.author.bot]
        assert [text for text in private if NOT not in text] == []


async def test_a_role_that_is_taken_away_frees_in_private_as_well(roomy: DiscordServer, tmp_path: Path) -> None:
    backend, crew = ScriptedBackend("One."), roomy.add_role("crew", roomy.person)
    async with talking(roomy, backend, tmp_path, own={"allow": Access(roles={str(crew.id)})}):
        await roomy.say(roomy.dm(), "hello")
        assert (await roomy.next_answer(roomy.dm())).text == "One."


async def test_roles_are_not_looked_up_where_none_is_named(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("One."), tmp_path):
        await roomy.say(roomy.dm(), "hello")
        await roomy.next_answer(roomy.dm())
    assert roomy.calls.to("GET /guilds/*/members/*") == []


async def test_a_private_message_waits_for_roles_that_can_not_be_looked_up(
    roomy: DiscordServer, tmp_path: Path
) -> None:
    backend, muted = ScriptedBackend("One."), roomy.add_role("muted", roomy.person)
    async with talking(roomy, backend, tmp_path, own={"deny": Access(roles={str(muted.id)})}) as bridge:
        roomy.faults.error("GET /guilds/*/members/*", 503)
        await roomy.say(roomy.dm(), "hello")
        await roomy.calls.wait("GET /guilds/*/members/*", 1)
        await roomy.say(roomy.dm(), "hello again")
        await roomy.calls.wait("GET /guilds/*/members/*", 2)
        assert backend.requests == []
        change(bridge, deny=Access())
        await roomy.say(roomy.dm(), "now")
        await roomy.next_answer(roomy.dm())


async def test_admin_commands_bind_buttons_and_menus(roomy: DiscordServer, tmp_path: Path) -> None:
    backend, boss = ScriptedBackend("One.", "Two."), roomy.add_person("boss")
    roomy.join(roomy.guild, boss)
    own = {"admins": Admins(users={str(boss.id)}), "admin_commands": frozenset({"regenerate"})}
    async with talking(roomy, backend, tmp_path, own=own, commands="global"):
        await roomy.until(lambda: roomy.bot.commands[None] or None, what="the commands")
        await roomy.say(roomy.general, "count")
        shown = await roomy.next_answer()
        clicked = await roomy.click(shown, "regenerate")
        await roomy.until(lambda: clicked.followups or None)
        chosen = await roomy.answer_to(await roomy.invoke_on_message("Regenerate", shown))
        assert "for admins" in clicked.followups[0].text
        assert "for admins" in chosen.text
        assert len(backend.requests) == 1
        await roomy.click(shown, "regenerate", user=boss)
        await roomy.until(lambda: [one for one in roomy.messages() if one.text == "Two." and whole(one)] or None)
