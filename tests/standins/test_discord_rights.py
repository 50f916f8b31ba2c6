"""What a stand-in Discord lets bots see and whom it lets them call: switches, roles that change, mentions, edits."""

from __future__ import annotations

import pytest

from chatbridge.testing import DiscordServer
from chatbridge.testing.discord.state import Refusal

from .conftest import Client, discord, running


async def test_a_switch_that_is_turned_off_makes_content_blank_at_once(server: DiscordServer) -> None:
    async with running(server) as client:
        await server.say(server.general, "one")
        server.switch(message_content=False)
        await server.say(server.general, "two")
        await server.say(server.general, "three", mention=True)
        await server.say(server.dm(), "four")
        await client.until_got(4)
        assert [message.content for message in client.got] == ["one", "", f"{server.bot.user.mention} three", "four"]
        channel = client.get_channel(server.general.id)
        assert sorted([message.content async for message in channel.history()])[:2] == ["", ""]
        server.switch(message_content=True)
        await server.say(server.general, "five")
        assert (await client.until_got(5)).content == "five"


async def test_a_mention_does_not_show_the_message_that_it_replies_to(server: DiscordServer) -> None:
    client = Client(intents=discord.Intents.default())
    async with running(server, client):
        secret = await server.say(server.general, "between us")
        await server.say(server.general, "and that?", mention=True, reply_to=secret)
        got = await client.until_got(2)
        assert "and that?" in got.content
        assert got.reference.resolved.content == ""


async def test_roles_come_and_go_while_a_bot_runs(server: DiscordServer) -> None:
    async with running(server) as client:
        guild = client.get_guild(server.guild.id)
        role = server.add_role("crew", server.person)
        await server.say(server.general, "one")
        assert [found.name for found in (await client.until_got()).author.roles] == ["@everyone", "crew"]
        server.take_role(role, server.person)
        await server.say(server.general, "two")
        assert [found.name for found in (await client.until_got(2)).author.roles] == ["@everyone"]
        server.give_role(role, server.bot.user)
        server.change_role(role, "mention_everyone")
        await server.say(server.general, "three")
        await client.until_got(3)
        assert guild.me.guild_permissions.mention_everyone
        server.remove_role(role)
        await server.say(server.general, "four")
        await client.until_got(4)
        assert [found.name for found in guild.roles] == ["@everyone"]
        assert not guild.me.guild_permissions.mention_everyone


async def test_who_was_notified_is_remembered_and_an_edit_notifies_nobody(server: DiscordServer) -> None:
    role = server.add_role("crew", server.person)
    everyone = server.add_role("loud", server.bot.user)
    server.change_role(everyone, "mention_everyone")
    nobody = discord.AllowedMentions.none()
    async with running(server) as client:
        channel = client.get_channel(server.general.id)
        text = f"{server.person.mention} <@&{role.id}> @everyone"
        quiet = await channel.send(text, allowed_mentions=nobody)
        assert server.pings() == []
        await quiet.edit(content=f"{text}!", allowed_mentions=discord.AllowedMentions.all())
        assert server.messages()[0].pings == [server.person.mention, f"<@&{role.id}>", "@everyone"]
        assert server.pings() == []
        for said in (server.person.mention, f"<@&{role.id}>", "@everyone"):
            await channel.send(said)
        assert [message.content for message in server.pings()] == [server.person.mention, f"<@&{role.id}>", "@everyone"]
        assert [message.content for message in server.pings(server.guild.owner)] == ["@everyone"]


async def test_edits_that_discord_does_not_allow(server: DiscordServer) -> None:
    said = await server.say(server.general, "one")
    for text in ("", "x" * 2001):
        with pytest.raises(Refusal):
            await server.edit(said, text)
    forwarded = await server.forward(said, server.general)
    with pytest.raises(Refusal, match="50021"):
        await server.edit(forwarded, "two")
    thread = await server.start_thread(server.general, "thread")
    inside = await server.say(thread, "three")
    thread.archived = True
    with pytest.raises(Refusal, match="50083"):
        await server.edit(inside, "four")
    assert (said.content, inside.content) == ("one", "three")


async def test_a_link_s_preview_is_told_without_an_edit(server: DiscordServer) -> None:
    async with running(server) as client:
        seen: list[discord.Message] = []

        async def on_message_edit(before: discord.Message, after: discord.Message) -> None:
            seen.append(after)
            client.see("edit")

        client.event(on_message_edit)
        said = await server.say(server.general, "https://example.org")
        await client.until_got()
        await server.unfurl(said)
        await client.until_seen("edit")
        assert (seen[0].edited_at, seen[0].embeds[0].title) == (None, "A page")


async def test_a_message_is_forwarded_as_it_was(server: DiscordServer) -> None:
    async with running(server) as client:
        said = await server.say(server.general, "one")
        await server.forward(said, server.dm())
        await server.edit(said, "two")
        got = await client.until_got(2)
        assert (got.content, got.message_snapshots[0].content) == ("", "one")
