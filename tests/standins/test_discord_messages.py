"""discord.py, unmodified, against the stand-in Discord: login, messages, threads, files, permissions."""

from __future__ import annotations

import io

import aiohttp
import pytest

from chatbridge.testing import DiscordServer
from chatbridge.testing.wire.forms import Upload

from .conftest import Client, discord, running


async def test_login_costs_two_calls_and_the_gateway(server: DiscordServer) -> None:
    async with running(server) as client:
        assert client.user is not None
        assert (client.user.id, client.user.name) == (server.bot.user.id, "bot")
        assert [call.name for call in server.calls] == [
            "GET /users/@me",
            "GET /oauth2/applications/@me",
            "GET /gateway/",
            "GATEWAY IDENTIFY",
        ]
        assert [guild.name for guild in client.guilds] == ["Guild"]
        assert [channel.name for channel in client.guilds[0].text_channels] == ["general"]


async def test_a_wrong_token_is_refused(server: DiscordServer) -> None:
    with pytest.raises(discord.LoginFailure):
        async with running(server, token="wrong"):
            pass
    assert server.calls[0].status == 401


async def test_a_message_and_its_answer(server: DiscordServer) -> None:
    async with running(server) as client:
        said = await server.say(server.general, "hello", mention=True)
        got = await client.until_got()
        assert (got.id, got.content, got.author.name) == (said.id, f"<@{server.bot.user.id}> hello", "alice")
        assert client.user in got.mentions
        answer = await got.reply("hello, alice 🙂")
        heard = await server.next_message()
        assert (heard.id, heard.content, heard.reply_to) == (answer.id, "hello, alice 🙂", said)
        await answer.edit(content="goodbye")
        assert (heard.content, heard.history) == ("goodbye", ["hello, alice 🙂"])
        assert (await got.channel.fetch_message(answer.id)).edited_at is not None
        await answer.delete()
        assert heard.deleted
        assert server.messages() == []


async def test_a_person_s_edits_and_deletions_are_told(server: DiscordServer) -> None:
    class Watching(Client):
        async def on_message_edit(self, before: discord.Message, after: discord.Message) -> None:
            self.see(f"{before.content} -> {after.content}")

        async def on_message_delete(self, message: discord.Message) -> None:
            self.see(f"deleted {message.content}")

        async def on_reaction_add(self, reaction: discord.Reaction, user: discord.User) -> None:
            self.see(f"{user.name} {reaction.emoji}")

        async def on_typing(self, channel: object, user: discord.User, when: object) -> None:
            self.see(f"{user.name} types")

    async with running(server, Watching()) as client:
        message = await server.say(server.general, "one")
        await server.edit(message, "two")
        await server.react(message, "👍")
        await server.type(server.general)
        await server.delete(message)
        await client.until_seen("deleted two")
        assert client.seen[1:] == ["one -> two", "alice 👍", "alice types", "deleted two"]


async def test_content_is_blank_without_the_intent_but_for_dms_and_mentions(server: DiscordServer) -> None:
    intents = discord.Intents.default()
    async with running(server, Client(intents=intents)) as client:
        await server.say(server.general, "secret")
        await server.say(server.general, "to you", mention=True)
        await server.say(server.dm(), "in private")
        await client.until_got(3)
        assert [message.content for message in client.got] == ["", f"<@{server.bot.user.id}> to you", "in private"]


async def test_an_intent_that_is_switched_off_ends_the_client(server: DiscordServer) -> None:
    server.bot.message_content = False
    with pytest.raises(discord.PrivilegedIntentsRequired):
        async with running(server):
            pass


async def test_a_nonce_keeps_a_message_from_being_sent_twice(server: DiscordServer) -> None:
    async with running(server) as client:
        channel = client.get_channel(server.general.id)
        server.faults.lose_answer("POST /channels/*/messages")
        with pytest.raises(aiohttp.ClientConnectionError):
            await channel.send("once", nonce="n1")
        again = await channel.send("once", nonce="n1")
        assert [message.id for message in server.messages()] == [again.id]


async def test_what_discord_refuses(server: DiscordServer) -> None:
    async with running(server) as client:
        channel = client.get_channel(server.general.id)
        for content, code in (("", 50006), ("x" * 2001, 50035)):
            with pytest.raises(discord.HTTPException) as refused:
                await channel.send(content)
            assert (refused.value.status, refused.value.code) == (400, code)
        await channel.send("x" * 2000)
        other = await server.say(server.general, "mine")
        with pytest.raises(discord.Forbidden) as refused:
            await channel.get_partial_message(other.id).edit(content="yours")
        assert refused.value.code == 50005
        with pytest.raises(discord.NotFound) as refused:
            await channel.fetch_message(1)
        assert refused.value.code == 10008
        server.deny(server.general, "send_messages")
        with pytest.raises(discord.Forbidden) as refused:
            await channel.send("no")
        assert refused.value.code == 50013
        server.deny(server.general, "view_channel")
        with pytest.raises(discord.Forbidden) as refused:
            await channel.send("no")
        assert refused.value.code == 50001
        server.person.accept_dms = False
        with pytest.raises(discord.Forbidden) as refused:
            await (await client.fetch_user(server.person.id)).send("hello?")
        assert refused.value.code == 50007


async def test_mentions_ping_only_whom_they_are_allowed_to(server: DiscordServer) -> None:
    role = server.add_role("keepers", server.person)
    boss = server.add_role("boss", server.bot.user)
    boss.permissions = 1 << 17
    text = f"@everyone {role.id} <@&{role.id}> {server.person.mention}"
    async with running(server) as client:
        channel = client.get_channel(server.general.id)
        await channel.send(text)
        assert (await server.next_message()).pings == [server.person.mention, f"<@&{role.id}>", "@everyone"]
        await channel.send(text, allowed_mentions=discord.AllowedMentions.none())
        assert (await server.next_message()).pings == []
        await channel.send(text, allowed_mentions=discord.AllowedMentions(everyone=False, roles=False))
        assert (await server.next_message()).pings == [server.person.mention]


async def test_files_go_both_ways(server: DiscordServer) -> None:
    odd = bytes(range(256)) * 400 + b"\r\n--boundary\r\n"
    async with running(server) as client:
        await server.say(server.general, "look", files=[Upload("a b.bin", odd, "image/png")])
        await client.until_got()
        attachment = client.got[0].attachments[0]
        assert (attachment.filename, attachment.size, attachment.content_type) == ("a b.bin", len(odd), "image/png")
        assert await attachment.read() == odd
        files = [
            discord.File(io.BytesIO(odd), "答え.txt", description="the answer"),
            discord.File(io.BytesIO(b"2"), "2"),
        ]
        sent = await client.got[0].channel.send("here", files=files)
        heard = await server.next_message()
        assert [(file.filename, file.content) for file in heard.attachments] == [("答え.txt", odd), ("2", b"2")]
        assert heard.attachments[0].description == "the answer"
        assert await sent.attachments[1].read() == b"2"


async def test_threads_and_forum_posts(server: DiscordServer) -> None:
    forum = server.add_channel("forum", kind=15)
    async with running(server) as client:
        said = await server.say(server.general, "talk")
        await client.until_got()
        thread = await client.got[0].create_thread(name="a talk")
        assert thread.id == said.id
        await thread.send("in here")
        heard = await server.next_message(server.world.channel(thread.id))
        assert (heard.content, heard.channel.parent) == ("in here", server.general)
        with pytest.raises(discord.HTTPException) as refused:
            await client.got[0].create_thread(name="again")
        assert refused.value.code == 160004
        await server.say(heard.channel, "and I")
        await client.until_got(2)
        assert isinstance(client.got[1].channel, discord.Thread)
        post = await server.start_thread(forum, "a post", text="first words")
        await client.until_got(3)
        assert (client.got[2].content, client.got[2].channel.parent.id) == ("first words", forum.id)
        made = await client.get_channel(forum.id).create_thread(name="mine", content="words")
        assert made.message.content == "words"
        await made.thread.edit(archived=True)
        assert [thread.id for thread in await client.guilds[0].active_threads()] == [said.id, post.id]


async def test_dms(server: DiscordServer) -> None:
    async with running(server) as client:
        await server.say(server.dm(), "psst")
        await client.until_got()
        assert client.got[0].guild is None
        await client.got[0].author.send("yes?")
        assert (await server.next_message(server.dm())).content == "yes?"


async def test_history_pages_through_what_was_missed(server: DiscordServer) -> None:
    said = [await server.say(server.general, str(number)) for number in range(150)]
    async with running(server) as client:
        channel = client.get_channel(server.general.id)
        newer = [message.content async for message in channel.history(after=discord.Object(said[20].id), limit=None)]
        assert newer == [str(number) for number in range(21, 150)]
        assert [message.content async for message in channel.history(limit=2)] == ["149", "148"]


async def test_what_the_stand_in_does_not_know_is_answered_501(server: DiscordServer) -> None:
    async with running(server) as client:
        with pytest.raises(discord.HTTPException) as refused:
            await client.guilds[0].bans().__anext__()
        assert refused.value.status == 501
        assert server.calls[-1].name == f"GET /guilds/{server.guild.id}/bans"


async def test_the_address_of_a_file_is_good_for_a_day(server: DiscordServer) -> None:
    async with running(server) as client:
        await server.say(server.general, files=[Upload("x.txt", b"content", "text/plain")])
        attachment = (await client.until_got()).attachments[0]
        server.clock.advance(24 * 3600)
        with pytest.raises(discord.NotFound):
            await attachment.read()
        again = await client.got[0].channel.fetch_message(client.got[0].id)
        assert await again.attachments[0].read() == b"content"
        async with aiohttp.ClientSession() as session, session.get(attachment.url.partition("?")[0]) as unsigned:
            assert unsigned.status == 404


async def test_webhooks_of_channels(server: DiscordServer) -> None:
    role = server.add_role("hooks", server.bot.user)
    async with running(server) as client:
        channel = client.get_channel(server.general.id)
        with pytest.raises(discord.Forbidden):
            await channel.create_webhook(name="hook")
        role.permissions = 1 << 29
        made = await channel.create_webhook(name="hook")
        assert [found.id for found in await channel.webhooks()] == [made.id]
        async with aiohttp.ClientSession() as session:
            hook = discord.Webhook.from_url(f"https://discord.com/api/webhooks/{made.id}/{made.token}", session=session)
            sent = await hook.send("as the moon", username="Moon", wait=True)
            heard = await server.next_message()
            assert (heard.author.name, heard.content, heard.webhook_id) == ("Moon", "as the moon", made.id)
            assert (await client.until_got()).webhook_id == made.id
            await hook.edit_message(sent.id, content="as the sun")
            assert (await hook.fetch_message(sent.id)).content == heard.content == "as the sun"
            await hook.delete_message(sent.id)
            assert heard.deleted
            with pytest.raises(discord.HTTPException) as refused:
                await discord.Webhook.partial(made.id, "wrong", session=session).send("x")
            assert refused.value.code == 50027
            await hook.delete()
            with pytest.raises(discord.NotFound) as refused:
                await hook.send("x")
            assert refused.value.code == 10015


def _layout(*items: discord.ui.Item) -> discord.ui.LayoutView:
    view = discord.ui.LayoutView()
    for item in items:
        view.add_item(item)
    return view


async def test_components_of_version_2_show_4000_characters(server: DiscordServer) -> None:
    show = discord.ui.TextDisplay
    async with running(server) as client:
        channel = client.get_channel(server.general.id)
        sent = await channel.send(view=_layout(discord.ui.Container(show("x" * 2001)), show("y" * 1999)))
        heard = await server.next_message()
        assert heard.text == "x" * 2001 + "\n" + "y" * 1999
        too_long = _layout(show("x" * 2001), show("y" * 2000))
        too_many = _layout(*(show(str(number)) for number in range(40)))
        with pytest.raises(discord.HTTPException) as refused:
            await channel.send(view=too_long)
        assert (refused.value.code, "4000 characters" in str(refused.value)) == (50035, True)
        await channel.send(view=too_many)
        with pytest.raises(discord.HTTPException):
            await client.http.request(
                discord.http.Route("POST", "/channels/{channel_id}/messages", channel_id=channel.id),
                json={"flags": 1 << 15, "components": [{"type": 10, "content": "x"}] * 41},
            )
        with pytest.raises(discord.HTTPException, match="cannot be used"):
            await client.http.request(
                discord.http.Route("PATCH", f"/channels/{channel.id}/messages/{sent.id}"),
                json={"flags": 0, "content": "back to plain text"},
            )
        file = discord.File(io.BytesIO(b"all of it"), "answer.md")
        await sent.edit(view=_layout(show("see"), discord.ui.File("attachment://answer.md")), attachments=[file])
        assert [found.content for found in heard.attachments] == [b"all of it"]
        with pytest.raises(discord.HTTPException, match="was not found"):
            await channel.send(view=_layout(discord.ui.File("attachment://nothing.md")))
