"""Threads, forum posts, and threads that the bot opens for each message to it."""

from __future__ import annotations

from pathlib import Path

from chatbridge import ChannelSettings
from chatbridge.testing import DiscordServer, ScriptedBackend, channel_settings
from chatbridge.testing.discord.state import FORUM, Channel

from .conftest import change, talking

MENTIONS = channel_settings(reply_to="mentions")


async def opened(server: DiscordServer) -> Channel:
    """The thread that the bot opens."""
    return await server.until(
        lambda: next((one for one in server.guild.channels.values() if one.owner is server.bot.user), None)
    )


async def test_a_thread_is_a_conversation_of_its_own(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path, defaults=channel_settings(reply_to="always", scope="thread")):
        thread = await roomy.start_thread(roomy.general, "Cats")
        await roomy.say(roomy.general, "about dogs")
        await roomy.next_answer()
        await roomy.say(thread, "about cats")
        shown = await roomy.next_answer(thread)
        assert shown.channel is thread
    assert "dogs" not in str(backend.requests[1].turns)


async def test_a_forum_s_posts_are_answered_by_the_forum_s_settings(roomy: DiscordServer, tmp_path: Path) -> None:
    forum, backend = roomy.add_channel("help", kind=FORUM), ScriptedBackend("Have you tried again?")
    async with talking(roomy, backend, tmp_path, defaults=MENTIONS) as bridge:
        change(bridge, channels={str(forum.id): ChannelSettings(reply_to="always", system="Help.")})
        post = await roomy.start_thread(forum, "It does not work", text="Nothing happens.")
        await roomy.next_answer(post)
        await roomy.say(post, "And now?")
        await roomy.next_answer(post)
    assert [request.turns[-1].text for request in backend.requests] == ["Nothing happens.", "And now?"]
    assert backend.requests[0].turns[0].text == "Help."


async def test_each_message_to_the_bot_gets_a_thread_where_that_is_wanted(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes.", "Still yes.", "No.")
    async with talking(roomy, backend, tmp_path, defaults=MENTIONS, auto_thread=True):
        await roomy.say(roomy.general, "not for it")
        asked = await roomy.say(roomy.general, "are you there? " + "really " * 20, mention=True)
        thread = await opened(roomy)
        assert (thread.id, thread.name[:14], len(thread.name) <= 100) == (asked.id, "are you there?", True)
        assert (await roomy.next_answer(thread)).text == "Yes."
        await roomy.say(thread, "without a mention")
        assert (await roomy.next_answer(thread)).text == "Still yes."
        await roomy.edit(asked, "something else")
        assert "changed a message" in (await roomy.next_answer(thread)).text
        await roomy.delete(asked)
        await roomy.say(thread, "and now?")
        await roomy.next_answer(thread)
    assert roomy.messages() == []
    assert "are you there" not in str(backend.requests[2].turns)


async def test_in_threads_of_others_it_answers_when_it_is_asked(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes.", "To everything.")
    async with talking(roomy, backend, tmp_path, defaults=MENTIONS, auto_thread=True):
        thread = await roomy.start_thread(roomy.general, "Cats")
        await roomy.say(thread, "said among people")
        await roomy.say(thread, "are you there?", mention=True)
        assert (await roomy.next_answer(thread)).text == "Yes."
        await roomy.say(thread, "and again among people")
        await roomy.say(thread, "still there?", mention=True)
        assert (await roomy.next_answer(thread)).text == "To everything."
    asked = [request.turns[-1].text for request in backend.requests]
    assert [text.splitlines()[-1] for text in asked] == ["are you there?", "still there?"]
    assert len(roomy.messages(thread)) == 2


async def test_a_thread_that_is_there_already_is_used(roomy: DiscordServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=MENTIONS):
        await roomy.say(roomy.dm(), "hello")
        await roomy.next_answer(roomy.dm())
    asked = await roomy.say(roomy.general, "are you there?", mention=True)
    roomy.faults.lose_answer("POST /channels/*/messages/*/threads")
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=MENTIONS, auto_thread=True):
        await roomy.until(lambda: any(len(roomy.messages(one)) for one in (roomy.general, asked.thread) if one) or None)
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=MENTIONS, auto_thread=True):
        await roomy.say(roomy.general, "and now?", mention=True)
        await roomy.until(lambda: len([one for one in roomy.guild.channels.values() if one.is_thread]) == 2 or None)
    assert asked.thread is not None


async def test_where_no_thread_can_be_opened_the_channel_has_to_do(roomy: DiscordServer, tmp_path: Path) -> None:
    roomy.deny(roomy.general, "create_public_threads")
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=MENTIONS, auto_thread=True):
        await roomy.say(roomy.general, "are you there?", mention=True)
        assert (await roomy.next_answer()).text == "Yes."
        await roomy.say(roomy.dm(), "and here?")
        assert (await roomy.next_answer(roomy.dm())).text == "Yes."
