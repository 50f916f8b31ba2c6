"""Every way to a bot in Telegram asks who may do what: one who is denied gets nothing, and no token is spent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from chatbridge_telegram.polling import WANTED

from chatbridge.config import Access, Admins, Quota
from chatbridge.testing import ScriptedBackend, TelegramServer, channel_settings
from chatbridge.testing.telegram import updates
from chatbridge.testing.telegram.payloads import chat_json
from chatbridge.testing.telegram.state import Chat, Message, User

from .conftest import talking

Way = Callable[[TelegramServer, User, Chat, Message, Message], Awaitable[object]]


async def _press(roomy: TelegramServer, mallory: User, shown: Message, action: str) -> None:
    query = await roomy.press(shown, action, user=mallory)
    await roomy.until(lambda: query.answered or None)


async def _edit(roomy: TelegramServer, mallory: User, group: Chat, shown: Message, theirs: Message) -> None:
    await roomy.edit(theirs, "/model model")


async def through_channel(roomy: TelegramServer, group: Chat, channel: int, text: str) -> None:
    """A message that somebody writes in the name of a channel, or of the group itself."""
    name = f"@{roomy.bot.user.username}"
    sender = chat_json(group) if channel == group.id else {"id": channel, "type": "channel", "title": f"News {channel}"}
    json = {
        "message_id": 9000 - channel % 1000,
        "date": int(roomy.world.clock()),
        "chat": chat_json(group),
        "text": f"{name} {text}",
        "entities": [{"type": "mention", "offset": 0, "length": len(name)}],
        "from": {"id": 136817688, "is_bot": True, "first_name": "Channel", "username": "Channel_Bot"},
        "sender_chat": sender,
    }
    updates.tell(roomy.world, roomy.bot, "message", json)


WAYS: dict[str, tuple[str, Way]] = {
    "a message": ("message", lambda r, m, g, s, t: r.say(g, "hello", author=m, mention=True)),
    "a private message": ("message", lambda r, m, g, s, t: r.say(r.private(m), "hello", author=m)),
    "a reply": ("message", lambda r, m, g, s, t: r.say(g, "hello", author=m, reply_to=s)),
    "a command": ("message", lambda r, m, g, s, t: r.say(g, "/regenerate", author=m)),
    "an alias": ("message", lambda r, m, g, s, t: r.say(g, "+again", author=m)),
    "a channel's name": ("message", lambda r, m, g, s, t: through_channel(r, g, -1001, "hello")),
    "the group's name": ("message", lambda r, m, g, s, t: through_channel(r, g, g.id, "hello")),
    "an edit": ("edited_message", _edit),
    "regenerate": ("callback_query", lambda r, m, g, s, t: _press(r, m, s, "regenerate")),
    "branch": ("callback_query", lambda r, m, g, s, t: _press(r, m, s, "branch")),
}


def test_these_are_all_ways() -> None:
    # A draft's Stop button is in its person's private chat alone; `my_chat_member` is only logged.
    others = {"my_chat_member", "stopped_message_generation"}
    assert {kind for kind, _ in WAYS.values()} == set(WANTED) - others


@pytest.mark.parametrize("way", WAYS)
async def test_whoever_is_denied_gets_nothing_by_any_way(roomy: TelegramServer, tmp_path: Path, way: str) -> None:
    backend, mallory = ScriptedBackend("One.", "Two."), roomy.add_person("mallory")
    defaults = channel_settings(reply_to="mentions", aliases={"+again": "/regenerate"})
    async with talking(
        roomy, backend, tmp_path, defaults=defaults, own={"deny": Access(users={str(mallory.id)})}
    ) as bridge:
        group = roomy.add_group("Town", mallory, roomy.person, roomy.bot.user)
        theirs = await roomy.say(group, "unanswered", author=mallory, mention=True)
        await roomy.say(group, "count", mention=True)
        shown = await roomy.next_answer(group)
        path = await bridge.bot("bot").dialogue(_channel(group)).path()
        await WAYS[way][1](roomy, mallory, group, shown, theirs)
        await roomy.say(group, "the next", mention=True)  # what came before it has been taken in
        await roomy.next_answer(group)
        assert [request.turns[-1].text for request in backend.requests] == ["count", "the next"]
        kept = await bridge.bot("bot").dialogue(_channel(group)).path()
        assert [node.id for node in kept[: len(path)]] == [node.id for node in path]
        assert not [one for one in roomy.messages(roomy.private(mallory)) if one.sender.is_bot]


def _channel(group: Chat) -> object:
    from chatbridge import Channel

    return Channel(str(group.id), kind="group")


async def test_channels_that_are_allowed_are_answered_though_people_are_denied(
    roomy: TelegramServer, tmp_path: Path
) -> None:
    backend = ScriptedBackend("One.")
    own = {"deny": Access(users={"5001"}), "anonymous": "answer"}
    async with talking(roomy, backend, tmp_path, own=own):
        group = roomy.add_group("Town", roomy.person, roomy.bot.user)
        await through_channel(roomy, group, -1001, "hello")
        assert (await roomy.next_answer(group)).text == "One."


async def test_channels_share_one_quota_in_a_group(roomy: TelegramServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("One.")
    async with talking(roomy, backend, tmp_path, own={"limits": Quota(messages_per_minute=1)}):
        group = roomy.add_group("Town", roomy.person, roomy.bot.user)
        for channel in (-1001, -1002, -1003):
            await through_channel(roomy, group, channel, f"through {channel}")
        await roomy.say(group, "myself", mention=True)
        await roomy.until(lambda: len(backend.requests) == 2 or None)
    assert [request.turns[-1].text for request in backend.requests] == ["through -1001", "myself"]


async def test_a_flood_of_a_strangers_messages_gets_one_code(roomy: TelegramServer, tmp_path: Path) -> None:
    backend, boss = ScriptedBackend("One."), roomy.add_person("boss")
    own = {"pairing": True, "admins": Admins(users={str(boss.id)})}
    async with talking(roomy, backend, tmp_path, own=own):
        for number in range(20):
            await roomy.say(roomy.private(), f"let me in {number}")
        code = (await roomy.next_answer()).text.rpartition(" ")[2]
        await roomy.say(roomy.private(boss), f"/pair {code}", author=boss)
        await roomy.next_answer(roomy.private(boss))
        await roomy.say(roomy.private(), "thanks")
        assert (await roomy.next_answer()).text == "One."


async def test_groups_have_a_menu_without_what_is_for_admins_there(roomy: TelegramServer, tmp_path: Path) -> None:
    boss = roomy.person
    for admins in (Admins(users={str(boss.id)}), Admins()):
        async with talking(roomy, ScriptedBackend("One."), tmp_path, own={"admins": admins}):
            await roomy.say(roomy.private(), "/help")
            await roomy.next_answer()
        menus = {scope: {one["command"] for one in commands} for scope, commands in roomy.bot.commands.items()}
        groups = next((names for scope, names in menus.items() if "group" in scope and names), None)
        assert "model" in menus["default"]
        if admins == Admins():
            assert groups is None
        else:
            assert groups == menus["default"] - {"model", "template", "system", "set"}
