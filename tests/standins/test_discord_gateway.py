"""discord.py, unmodified, against the stand-in gateway: heartbeats, resume, invalid sessions, close codes."""

from __future__ import annotations

import json
import zlib

import aiohttp
import pytest

from chatbridge.testing import DiscordServer
from chatbridge.testing.discord.gateway import Gateway

from .conftest import Client, discord, running

TROUBLE = {
    "dropped": Gateway.drop,
    "op 7": Gateway.ask_to_reconnect,
    "op 9 true": lambda gateway: gateway.invalidate(resumable=True),
    "close 4000": lambda gateway: gateway.close(4000),
    "close 4008": lambda gateway: gateway.close(4008),
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_a_session_is_resumed_and_nothing_is_missed(server: DiscordServer, trouble: str) -> None:
    async with running(server) as client:
        await server.say(server.general, "before")
        await client.until_got(1)
        TROUBLE[trouble](server.gateway)
        await server.gateway.until_gone()
        await server.say(server.general, "meanwhile")
        await client.until_seen("ready", "disconnect", "resumed")
        await server.say(server.general, "after")
        await client.until_got(3)
        assert [message.content for message in client.got] == ["before", "meanwhile", "after"]
        assert client.seen.count("ready") == 1
        assert len(server.calls.to("GATEWAY RESUME")) == 1


async def test_a_session_that_is_over_begins_anew_and_misses_what_came_between(server: DiscordServer) -> None:
    async with running(server) as client:
        server.gateway.invalidate()
        await server.gateway.until_gone()
        await server.say(server.general, "meanwhile")
        await client.until_seen("ready", "disconnect", "ready")
        await server.say(server.general, "after")
        await client.until_got(1)
        assert [message.content for message in client.got] == ["after"]
        assert len(server.calls.to("GATEWAY IDENTIFY")) == 2
        missed = [message async for message in client.get_channel(server.general.id).history()]
        assert [message.content for message in missed] == ["after", "meanwhile"]


async def test_a_resume_of_a_forgotten_session_is_refused(server: DiscordServer) -> None:
    async with running(server) as client:
        server.gateway.forget_sessions()
        server.gateway.close(4000)
        await client.until_seen("ready", "ready")
        assert [call.name for call in server.calls.to("GATEWAY *")][1:] == ["GATEWAY RESUME", "GATEWAY IDENTIFY"]


async def test_a_zombie_connection_is_noticed_and_left() -> None:
    async with DiscordServer(heartbeat_interval=0.4) as server:
        client = Client(heartbeat_timeout=1.2)
        async with running(server, client):
            server.gateway.zombie()
            await server.say(server.general, "unheard")
            await client.until_seen("resumed")
            assert (await client.until_got(1)).content == "unheard"


async def test_heartbeats_are_answered_and_asked_for() -> None:
    async with DiscordServer(heartbeat_interval=0.4) as server, running(server) as client:
        await server.gateway.until_heartbeats(4)
        assert client.latency < 5
    async with (
        DiscordServer(heartbeat_interval=0.05) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.gateway_url) as socket,
    ):
        assert (await socket.receive_json())["op"] == 10
        closed = await socket.receive()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 4009), "no heartbeat came"


@pytest.mark.parametrize("code", [4004, 4013])
async def test_codes_that_end_a_client(server: DiscordServer, code: int) -> None:
    async with running(server) as client:
        server.gateway.close(code)
        with pytest.raises(discord.ConnectionClosed) as closed:
            await client.task
        assert closed.value.code == code


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("{", 4002),
        ('{"op": 77}', 4001),
        ('{"op": 3, "d": {}}', 4003),
        ('{"op": 2, "d": {"token": "wrong", "intents": 0}}', 4004),
        ('{"op": 2, "d": {"token": "token-of-bot", "intents": 1073741824}}', 4013),
        ('{"op": 2, "d": {"token": "token-of-bot", "intents": 0, "shard": [2, 2]}}', 4010),
    ],
)
async def test_what_the_gateway_closes_for(server: DiscordServer, sent: str, code: int) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(server.gateway_url) as socket:
        await socket.receive_json()
        await socket.send_str(sent)
        assert (await socket.receive()).data == code


async def test_zlib_is_one_stream_for_all_messages(server: DiscordServer) -> None:
    url = server.gateway_url + "?compress=zlib-stream"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        unzip = zlib.decompressobj()

        async def receive() -> dict[str, object]:
            data = await socket.receive_bytes()
            assert data.endswith(b"\x00\x00\xff\xff")
            return json.loads(unzip.decompress(data))

        assert (await receive())["op"] == 10
        await socket.send_json({"op": 2, "d": {"token": server.bot.token, "intents": 1 << 9}})
        ready, guild = await receive(), await receive()
        assert (ready["t"], ready["s"], guild["t"], guild["s"]) == ("READY", 1, "GUILD_CREATE", 2)
        await server.type(server.general)
        await server.say(server.general, "only messages were asked for")
        assert (await receive())["t"] == "MESSAGE_CREATE"


async def test_a_malformed_event_ends_the_client(server: DiscordServer) -> None:
    async with running(server) as client:
        server.gateway.malformed()
        with pytest.raises(KeyError):
            await client.task


async def test_two_bots_in_one_process_hear_only_what_is_theirs(server: DiscordServer) -> None:
    other = server.add_bot("other")
    async with running(server) as one, running(server, token=other.token) as two:
        await server.say(server.dm(bot=other), "to the other")
        await server.say(server.general, "to all")
        await two.until_got(2)
        await one.until_got(1)
        assert [message.content for message in two.got] == ["to the other", "to all"]
        assert [message.content for message in one.got] == ["to all"]


async def test_members_come_in_chunks_when_asked_for(server: DiscordServer) -> None:
    for number in range(20):
        server.join(server.guild, server.add_person(f"person {number}"))
    async with running(server) as client:
        guild = client.guilds[0]
        assert {member.name for member in guild.members} == {"alice", "bot", "owner"} | {
            f"person {n}" for n in range(20)
        }
        found = await guild.query_members("person 1", limit=50)
        assert len(found) == 11


async def test_shards_hear_of_their_own_guilds(server: DiscordServer) -> None:
    server.add_guild("second")
    for guild in server.world.guilds.values():
        if server.bot.user.id not in guild.members:
            server.join(guild, server.bot.user)
    for shard in range(2):
        client = Client(shard_id=shard, shard_count=2)
        async with running(server, client):
            assert {guild.id for guild in client.guilds} == {
                number for number in server.world.guilds if (number >> 22) % 2 == shard
            }


class Sharded(Client, discord.AutoShardedClient):
    """As many shards as Discord recommends, and no pause between them."""

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None: ...


async def test_a_client_takes_as_many_shards_as_are_recommended() -> None:
    async with DiscordServer(shards=2) as server:
        guilds = [server.add_guild(str(number)) for number in range(4)]
        for guild in guilds:
            server.join(guild, server.bot.user)
            server.add_channel("talk", guild=guild)
        async with running(server, Sharded()) as client:
            assert sorted(client.shards) == [0, 1]
            assert len(client.guilds) == 5
            for guild in guilds:
                await server.say(next(iter(guild.channels.values())), guild.name)
            await client.until_got(4)
            assert sorted(message.content for message in client.got) == ["0", "1", "2", "3"]
        assert [call.params["shard"] for call in server.calls.to("GATEWAY IDENTIFY")] == [[0, 2], [1, 2]]
        assert len(server.calls.to("GET /gateway/bot")) == 1


async def test_a_gateway_that_does_not_answer_is_tried_again(server: DiscordServer) -> None:
    async with running(server) as client:
        server.faults.error("GET /gateway/", 502)
        server.gateway.drop()
        await client.until_seen("disconnect", "resumed")
        assert [call.status for call in server.calls.to("GET /gateway/")] == [101, 502, 101]


async def test_a_compression_that_is_not_known_is_refused(server: DiscordServer) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(server.gateway_url + "?compress=brotli-stream")
        assert refused.value.status == 400
