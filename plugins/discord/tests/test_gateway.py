"""The connection to the gateway: whatever ends it, each message is answered once, and what is amiss is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from chatbridge import ConfigError, StoreError
from chatbridge.config import Access
from chatbridge.testing import DiscordServer, ScriptedBackend, bridge_with, channel_settings, scripted
from chatbridge.testing.discord.gateway import Gateway
from chatbridge.testing.discord.limits import Limits

from .conftest import change, serving, talking

RESUMED: dict[str, Callable[[Gateway], None]] = {
    "dropped": Gateway.drop,
    "op 7": Gateway.ask_to_reconnect,
    "op 9 true": lambda gateway: gateway.invalidate(resumable=True),
    "close 4000": lambda gateway: gateway.close(4000),
}


def new_session(gateway: Gateway) -> None:
    gateway.forget_sessions()
    gateway.drop()


ANEW: dict[str, Callable[[Gateway], None]] = {
    "op 9 false": Gateway.invalidate,
    "resume refused": new_session,
    "close 4007": lambda gateway: gateway.close(4007),
    "close 4009": lambda gateway: gateway.close(4009),
    "malformed": Gateway.malformed,
    "nested": Gateway.nested,
}


@pytest.mark.parametrize("trouble", [*RESUMED, *ANEW])
async def test_what_is_said_meanwhile_is_answered_once_and_in_order(
    roomy: DiscordServer, tmp_path: Path, trouble: str
) -> None:
    backend = ScriptedBackend(*(f"{number}." for number in range(8)))
    thread = await roomy.start_thread(roomy.general, "thread")
    places = (roomy.general, thread, roomy.dm())
    async with talking(roomy, backend, tmp_path):
        for place in places:
            await roomy.say(place, "before")
            await roomy.next_answer(place)
        (RESUMED | ANEW)[trouble](roomy.gateway)
        if trouble not in ("malformed", "nested"):
            await roomy.gateway.until_gone()
        for place in places:
            await roomy.say(place, "meanwhile")
        await roomy.gateway.until_connected(within=30)
        await roomy.say(roomy.general, "after")
        for place in (*places, roomy.general):
            await roomy.next_answer(place, within=20)
    said = [request.turns[-1].text for request in backend.requests]
    assert sorted(said) == ["after", *["before"] * 3, *["meanwhile"] * 3]
    assert [len(roomy.messages(place)) for place in places] == [3, 2, 2]
    (last,) = [request.turns for request in backend.requests if request.turns[-1].text == "after"]
    assert [turn.text for turn in last if turn.role == "user"] == ["before", "meanwhile", "after"]
    assert len(roomy.calls.to("GATEWAY IDENTIFY")) == (2 if trouble in ANEW else 1)


async def test_a_zombie_connection_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        DiscordServer(limits=Limits.generous(), heartbeat_interval=0.4) as server,
        bridge_with(scripted(ScriptedBackend("Yes.")), tmp_path / "store") as bridge,
        serving(server, bridge.bot("bot"), library={"heartbeat_timeout": 1.2}, commands="none"),
    ):
        server.gateway.zombie()
        await server.say(server.general, "hello?")
        assert (await server.next_answer(within=20)).text == "Yes."


async def test_what_is_said_while_the_program_is_down_is_answered(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("One.", "Two.", "Three.", "Four.")
    new = roomy.add_channel("new")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, "one")
        await roomy.say(roomy.dm(), "psst")
        await roomy.next_answer()
        await roomy.next_answer(roomy.dm())
    for place in (roomy.general, new, roomy.dm()):
        await roomy.say(place, "two")
    async with talking(roomy, backend, tmp_path):
        for place in (roomy.general, new, roomy.dm()):
            await roomy.next_answer(place)
    assert [len(roomy.messages(place)) for place in (roomy.general, new, roomy.dm())] == [2, 1, 2]
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, "three")
        await roomy.next_answer()
    assert len(backend.requests) == 6


async def test_at_the_first_start_old_messages_are_left_alone(roomy: DiscordServer, tmp_path: Path) -> None:
    for number in range(3):
        await roomy.say(roomy.general, f"long ago {number}")
    roomy.clock.advance(5)
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, "now")
        await roomy.next_answer()
    assert [request.turns[-1].text for request in backend.requests] == ["now"]


async def test_looking_back_can_be_switched_off(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes.")
    for number in range(2):
        await roomy.say(roomy.general, f"unheard {number}")
        async with talking(roomy, backend, tmp_path, catch_up_hours=0):
            await roomy.say(roomy.dm(), "hello")
            await roomy.next_answer(roomy.dm())
    assert [request.turns[-1].text for request in backend.requests] == ["hello", "hello"]


async def test_the_roles_of_those_who_wrote_meanwhile_are_looked_up(roomy: DiscordServer, tmp_path: Path) -> None:
    bob = roomy.add_person("bob")
    roomy.join(roomy.guild, bob)
    crew = roomy.add_role("crew", bob)
    backend, own = ScriptedBackend("Yes."), {"allow": Access(roles={str(crew.id)})}
    async with talking(roomy, backend, tmp_path, own=own):
        await roomy.say(roomy.general, "one", author=bob)
        await roomy.next_answer()
    await roomy.say(roomy.general, "not allowed")
    await roomy.say(roomy.general, "allowed", author=bob)
    async with talking(roomy, backend, tmp_path, own=own):
        await roomy.next_answer()
    assert [request.turns[-1].text for request in backend.requests] == ["one", "allowed"]


async def test_roles_that_can_not_be_looked_up_at_once_are_looked_up_again(
    roomy: DiscordServer, tmp_path: Path
) -> None:
    crew = roomy.add_role("crew", roomy.person)
    backend, own = ScriptedBackend("Yes."), {"allow": Access(roles={str(crew.id)})}
    async with talking(roomy, backend, tmp_path, own=own):
        await roomy.say(roomy.general, "one")
        await roomy.next_answer()
    for text in ("two", "three"):
        await roomy.say(roomy.general, text)
    roomy.faults.error("GET /guilds/*/members/*", 503)
    async with talking(roomy, backend, tmp_path, own=own):
        await roomy.next_answer()
        await roomy.next_answer()
    assert [request.turns[-1].text for request in backend.requests] == ["one", "two", "three"]


@pytest.mark.parametrize("fault", ["reset", "500"])
async def test_looking_back_is_tried_again(roomy: DiscordServer, tmp_path: Path, fault: str) -> None:
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, "one")
        await roomy.next_answer()
    await roomy.say(roomy.general, "two")
    if fault == "reset":
        roomy.faults.reset("GET /channels/*/messages", times=2)
    else:
        roomy.faults.error("GET /channels/*/messages", 503, times=2)
    async with talking(roomy, backend, tmp_path):
        await roomy.next_answer(within=20)
    assert roomy.faults.pending == 0


async def test_channels_that_may_not_be_read_are_not_asked_for(roomy: DiscordServer, tmp_path: Path) -> None:
    closed = roomy.add_channel("closed")
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.general, "one")
        await roomy.next_answer()
    roomy.deny(closed, "read_message_history")
    await roomy.say(closed, "two")
    await roomy.say(roomy.general, "three")
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.next_answer()
    assert roomy.calls.to(f"GET /channels/{closed.id}/messages") == []


async def test_a_message_that_could_not_be_stored_is_looked_for_again(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path) as bridge:
        await roomy.say(roomy.general, "one")
        await roomy.next_answer()
        (delivery,) = bridge.deliveries
        good, tried = delivery.inbox.add, asyncio.Event()

        async def full(*_: object) -> None:
            delivery.inbox.add = good
            tried.set()
            raise StoreError("the disk is full")

        delivery.inbox.add = full
        await roomy.say(roomy.general, "two")
        await tried.wait()
        await roomy.say(roomy.general, "three")
        await roomy.next_answer()
        await roomy.next_answer()
    assert [request.turns[-1].text for request in backend.requests] == ["one", "two", "three"]


# --- what only a person can mend ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [4004, 4011, 4013, 4014])
async def test_codes_that_end_the_bot_are_told_in_words(roomy: DiscordServer, tmp_path: Path, code: int) -> None:
    words = {4004: "does not know this token", 4011: "`shards: auto`", 4013: "4013", 4014: "'Message Content Intent'"}
    async with bridge_with(scripted(ScriptedBackend("Yes.")), tmp_path / "store") as bridge:
        with pytest.raises(ConfigError, match=words[code]):
            async with serving(roomy, bridge.bot("bot"), commands="none") as task:
                await closed(roomy, code, task)


async def closed(server: DiscordServer, code: int, task: asyncio.Task[None]) -> None:
    """Close the connection, and wait for what comes of it."""
    server.gateway.close(code)
    await task


async def test_the_switch_that_is_missing_is_named_before_connecting(roomy: DiscordServer, tmp_path: Path) -> None:
    roomy.bot.message_content = False
    async with bridge_with(scripted(ScriptedBackend("Yes.")), tmp_path / "store") as bridge:
        with pytest.raises(ConfigError, match=r"Bot, switch on 'Message Content Intent'.*message_content: false"):
            async with serving(roomy, bridge.bot("bot")) as task:
                await task
    assert roomy.calls.to("GATEWAY *") == []


async def test_a_token_that_discord_does_not_know_ends_the_bot(roomy: DiscordServer, tmp_path: Path) -> None:
    async with bridge_with(scripted(ScriptedBackend("Yes.")), tmp_path / "store") as bridge:
        with pytest.raises(ConfigError, match="Reset Token") as refused:
            async with serving(roomy, bridge.bot("bot"), token="nobody-knows-me") as task:
                await task
        assert "nobody-knows-me" not in str(refused.value)


async def test_a_server_that_is_away_at_the_start_is_waited_for(roomy: DiscordServer, tmp_path: Path) -> None:
    roomy.faults.reset("GET /users/@me", times=2)
    roomy.faults.error("GET /users/@me", 503, times=2)
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.general, "hello")
        assert (await roomy.next_answer()).text == "Yes."
    assert roomy.faults.pending == 0


async def test_who_is_in_no_server_is_told_how_to_get_into_one(
    roomy: DiscordServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del roomy.guild.members[roomy.bot.user.id]
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, commands="global"):
        await roomy.calls.wait("GET /applications/*/commands")
        await roomy.say(roomy.dm(), "hello")
        await roomy.next_answer(roomy.dm())
    assert f"oauth2/authorize?client_id={roomy.bot.application_id}" in caplog.text


# --- several ---------------------------------------------------------------------------------------------------


async def test_bots_of_two_servers_in_one_process_do_not_mix(roomy: DiscordServer, tmp_path: Path) -> None:
    twin = roomy.add_bot("twin")
    backend = ScriptedBackend("Yes.")
    async with (
        DiscordServer(limits=Limits.generous()) as elsewhere,
        bridge_with(scripted(backend), tmp_path / "store", defaults=channel_settings(reply_to="mentions")) as bridge,
        serving(roomy, bridge.bot("one")),
        serving(roomy, bridge.bot("twin"), token=twin.token),
        serving(elsewhere, bridge.bot("other")),
    ):
        await roomy.gateway.until_connected(twin)
        await roomy.say(roomy.dm(bot=twin), "to the twin")
        await roomy.next_answer(roomy.dm(bot=twin))
        await elsewhere.say(elsewhere.general, "elsewhere", mention=True)
        await elsewhere.next_answer()
        await roomy.say(roomy.general, "here", mention=True)
        assert (await roomy.next_answer()).author is roomy.bot.user
    assert [request.turns[-1].text for request in backend.requests] == ["to the twin", "elsewhere", "here"]


async def test_shards_share_the_servers(tmp_path: Path) -> None:
    async with DiscordServer(limits=Limits.generous(), shards=2) as server:
        guilds = [server.add_guild(str(number)) for number in range(3)]
        channels = []
        for guild in guilds:
            server.join(guild, server.bot.user)
            channels.append(server.add_channel("talk", guild=guild))
        backend = ScriptedBackend("Yes.")
        async with talking(server, backend, tmp_path, shards="auto") as bridge:
            change(bridge)
            await server.until(lambda: server.gateway.connected() == 2 or None, within=15)
            for channel in channels:
                await server.say(channel, channel.guild.name, author=channel.guild.owner)
            for channel in channels:
                await server.next_answer(channel)
        assert sorted(request.turns[-1].text for request in backend.requests) == ["0", "1", "2"]
        assert [call.params["shard"] for call in server.calls.to("GATEWAY IDENTIFY")] == [[0, 2], [1, 2]]
