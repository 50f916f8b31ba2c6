"""discord.py, unmodified, against the limits of the stand-in Discord, and against what goes wrong with calls."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from chatbridge.testing import DiscordServer
from chatbridge.testing.discord.limits import Limits, Rate
from chatbridge.testing.wire.clock import Clock

from .conftest import discord, running

SEND = "POST /channels/*/messages"


async def test_discord_py_obeys_the_headers() -> None:
    async with DiscordServer(limits=Limits(messages=Rate(3, 0.4))) as server, running(server) as client:
        channel = client.get_channel(server.general.id)
        for number in range(7):
            await channel.send(str(number))
        sent = server.calls.to(SEND)
        assert [call.status for call in sent] == [200] * 7
        assert not server.calls.early
        assert sent[3].at - sent[0].at >= 0.4
        assert sent[6].at - sent[3].at >= 0.4


async def test_a_caller_who_does_not_look_is_refused_by_bucket_and_overall() -> None:
    clock = Clock(lambda: 0.0)
    limits = Limits(messages=Rate(2, 5), overall=Rate(6, 1))
    async with DiscordServer(clock=clock, limits=limits) as server, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bot {server.bot.token}"}
        url = f"{server.api_url}/channels/{server.general.id}"

        async def post(url: str) -> tuple[int, dict[str, object], dict[str, str]]:
            async with session.post(url, json={"content": "x"}, headers=headers) as response:
                return response.status, await response.json(), dict(response.headers)

        first = await post(f"{url}/messages")
        assert (first[0], first[2]["X-RateLimit-Limit"], first[2]["X-RateLimit-Remaining"]) == (200, "2", "1")
        assert (first[2]["X-RateLimit-Reset-After"], first[2]["Via"]) == ("5.000", "1.1 stand-in")
        assert (await post(f"{url}/messages"))[2]["X-RateLimit-Remaining"] == "0"
        clock.advance(2)
        status, body, told = await post(f"{url}/messages")
        assert (status, body) == (429, {"message": "You are being rate limited.", "retry_after": 3.0, "global": False})
        assert (told["Retry-After"], told["X-RateLimit-Scope"], "Via" in told) == ("3", "user", True)
        assert [call.early for call in server.calls] == [False, False, True]
        other = server.add_channel("other")
        assert (await post(f"{server.api_url}/channels/{other.id}/messages"))[0] == 200, "another channel is not meant"
        clock.advance(3)
        assert (await post(f"{url}/messages"))[0] == 200
        clock.advance(0.1)
        statuses = [(await post(f"{server.api_url}/channels/1/threads"))[0] for _ in range(6)]
        assert statuses == [404] * 5 + [429]
        assert server.calls[-1].answer["global"] is True
        assert (await post(f"{server.api_url}/interactions/1/x/callback"))[0] == 404, "exempt from the global limit"


async def test_too_many_invalid_calls_ban_the_address() -> None:
    async with DiscordServer(limits=Limits(invalid=Rate(3, 600))) as server, aiohttp.ClientSession() as session:
        statuses = []
        for _ in range(5):
            async with session.get(f"{server.api_url}/users/@me") as response:
                statuses.append((response.status, "Via" in response.headers))
        assert statuses == [(401, True)] * 4 + [(429, False)]
        server.clock.advance(601)
        async with session.get(f"{server.api_url}/users/@me") as response:
            assert response.status == 401


@pytest.mark.parametrize("scope", ["user", "shared", "global"])
async def test_a_429_is_waited_for_and_nothing_comes_inside(server: DiscordServer, scope: str) -> None:
    async with running(server) as client:
        server.faults.rate_limit(SEND, 0.3, scope=scope)
        await client.get_channel(server.general.id).send("late")
        refused, sent = server.calls.to(SEND)
        assert (refused.status, refused.answer["global"], sent.status) == (429, scope == "global", 200)
        assert sent.at - refused.at >= 0.3
        assert not server.calls.early
        assert server.faults.pending == 0


async def test_a_429_of_the_proxy_is_raised_at_once(server: DiscordServer) -> None:
    async with running(server) as client:
        server.faults.ban(SEND)
        with pytest.raises(discord.HTTPException) as refused:
            await client.get_channel(server.general.id).send("never")
        assert refused.value.status == 429
        assert len(server.calls.to(SEND)) == 1


@pytest.mark.parametrize(("status", "tries"), [(500, 2), (502, 2), (503, 1)])
async def test_errors_of_the_server(server: DiscordServer, status: int, tries: int) -> None:
    async with running(server) as client:
        server.faults.error(SEND, status)
        channel = client.get_channel(server.general.id)
        if tries == 1:
            with pytest.raises(discord.DiscordServerError):
                await channel.send("x")
        else:
            await channel.send("x")
        assert [call.status for call in server.calls.to(SEND)] == [status, 200][:tries]
        assert len(server.messages()) == tries - 1


async def test_an_error_after_acting_makes_a_double_without_a_nonce(server: DiscordServer) -> None:
    async with running(server) as client:
        server.faults.error(SEND, 502, acts=True, times=1)
        await client.get_channel(server.general.id).send("discord.py makes up a nonce")
        server.faults.error(SEND, 502, acts=True, times=1)
        route = discord.http.Route("POST", "/channels/{channel_id}/messages", channel_id=server.general.id)
        await client.http.request(route, json={"content": "without"})
        assert [call.status for call in server.calls.to(SEND)] == [502, 200] * 2
        assert [message.content for message in server.messages()] == [
            "discord.py makes up a nonce",
            "without",
            "without",
        ]


@pytest.mark.parametrize(("acts", "stored"), [(False, 0), (True, 1)])
async def test_a_reset_before_and_after_acting(server: DiscordServer, acts: bool, stored: int) -> None:
    async with running(server) as client:
        (server.faults.lose_answer if acts else server.faults.reset)(SEND, skip=1)
        channel = client.get_channel(server.general.id)
        await channel.send("whole")
        with pytest.raises(aiohttp.ClientConnectionError):
            await channel.send("lost")
        call = server.calls.to(SEND)[1]
        assert (call.status, call.fault) == (None, "lost answer" if acts else "reset")
        assert len(server.messages()) == 1 + stored


async def test_a_malformed_answer_is_raised(server: DiscordServer) -> None:
    async with running(server) as client:
        server.faults.malformed(SEND)
        with pytest.raises(ValueError, match="Expecting"):
            await client.get_channel(server.general.id).send("x")
        assert len(server.messages()) == 1


async def test_a_slow_answer_comes_when_it_is_let(server: DiscordServer) -> None:
    async with running(server) as client:
        let = asyncio.Event()
        server.faults.slow(SEND, let)
        sending = asyncio.create_task(client.get_channel(server.general.id).send("x"))
        heard = await server.next_message()
        assert not sending.done()
        let.set()
        assert (await sending).id == heard.id


async def test_a_fault_of_discord_s_own(server: DiscordServer) -> None:
    async with running(server) as client:
        server.faults.refuse(SEND, 403, 50013, "Missing Permissions")
        with pytest.raises(discord.Forbidden) as refused:
            await client.get_channel(server.general.id).send("x")
        assert refused.value.code == 50013


async def test_a_bug_of_the_stand_in_is_not_missed() -> None:
    server = await DiscordServer().__aenter__()
    server.faults.add("bug", "*", lambda call, response: 1 / 0)  # type: ignore[arg-type, return-value]
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post(f"{server.api_url}/users/@me/channels")
    with pytest.raises(ExceptionGroup) as failed:
        await server.__aexit__(None, None, None)
    assert isinstance(failed.value.exceptions[0], ZeroDivisionError)
