"""Who is heard where: channels, private chats, replies, other bots, roles; and what of it the model reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge import ChannelSettings
from chatbridge.config import Access, Admins
from chatbridge.testing import DiscordServer, ScriptedBackend, channel_settings

from .conftest import change, talking

MENTIONS = channel_settings(reply_to="mentions")


async def test_a_channel_hears_the_bot_when_it_is_meant(roomy: DiscordServer, tmp_path: Path) -> None:
    backend, bob = ScriptedBackend("Yes."), roomy.add_person("bob")
    roomy.join(roomy.guild, bob)
    async with talking(roomy, backend, tmp_path, defaults=MENTIONS):
        await roomy.say(roomy.general, "not for you")
        asked = await roomy.say(roomy.general, ", are you there?", mention=True)
        first = await roomy.next_answer()
        assert first.reply_to is asked
        await roomy.say(roomy.general, "and I?", author=bob, reply_to=first)
        await roomy.next_answer()
        await roomy.say(roomy.general, "alice, lunch?", author=bob, reply_to=asked)
        await roomy.say(roomy.dm(), "psst")
        assert (await roomy.next_answer(roomy.dm())).reply_to is None
    said = [(request.turns[-1].name, request.turns[-1].text) for request in backend.requests]
    assert said == [("alice", "are you there?"), ("bob", "and I?"), ("", "psst")]


async def test_a_reply_that_notifies_the_bot_is_no_mention(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path, defaults=channel_settings(reply_to="mentions", replies=False)):
        await roomy.say(roomy.general, "one", mention=True)
        first = await roomy.next_answer()
        await roomy.say(roomy.general, "only a remark", reply_to=first)
        await roomy.say(roomy.general, "two", mention=True, reply_to=first)
        await roomy.next_answer()
    assert [request.turns[-1].text for request in backend.requests] == ["one", "two"]


async def test_a_reply_to_words_of_the_bot_that_it_has_forgotten_is_one(roomy: DiscordServer, tmp_path: Path) -> None:
    said = await roomy.say(roomy.general, "long ago", author=roomy.bot.user)
    assert await roomy.next_message() is said
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=MENTIONS):
        await roomy.say(roomy.general, "is that still so?", reply_to=said)
        await roomy.next_answer()


async def test_names_stand_in_the_place_of_ids(roomy: DiscordServer, tmp_path: Path) -> None:
    backend, role = ScriptedBackend("Yes."), roomy.add_role("crew")
    text = f"ask {roomy.person.mention} or <@&{role.id}> in <#{roomy.general.id}> <a:wave:12345678> <@1> <b> & @here"
    async with talking(roomy, backend, tmp_path):
        await roomy.say(roomy.general, text)
        await roomy.next_answer()
    assert backend.requests[0].turns[-1].text == "ask @alice or @crew in #general :wave: <@1> <b> & @here"


async def test_what_is_replied_to_is_told_to_the_model(roomy: DiscordServer, tmp_path: Path) -> None:
    unheard = await roomy.say(roomy.general, "The moon is made of cheese.")
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path, defaults=MENTIONS):
        await roomy.say(roomy.general, "is that so?", mention=True, reply_to=unheard)
        await roomy.next_answer()
    assert backend.requests[0].turns[-1].text == "> The moon is made of cheese.\n\nis that so?"


async def test_other_bots_are_left_alone_unless_bots_yaml_says_else(roomy: DiscordServer, tmp_path: Path) -> None:
    backend, other = ScriptedBackend("Yes."), roomy.add_bot("other")
    async with talking(roomy, backend, tmp_path) as bridge:
        await roomy.say(roomy.general, "beep", author=other.user)
        await roomy.say(roomy.general, "hello")
        await roomy.until(lambda: backend.requests or None)
        change(bridge, defaults=ChannelSettings(other_bots="answer"))
        await roomy.say(roomy.general, "boop", author=other.user)
        await roomy.until(lambda: len(backend.requests) > 1 or None)
    assert [request.turns[-1].text for request in backend.requests] == ["hello", "boop"]


async def test_without_the_intent_mentions_replies_and_private_chats_are_heard(
    roomy: DiscordServer, tmp_path: Path
) -> None:
    roomy.bot.message_content = False
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path, message_content=False):
        await roomy.say(roomy.general, "unseen")
        await roomy.say(roomy.general, "seen", mention=True)
        first = await roomy.next_answer()
        await roomy.say(roomy.general, "seen too", reply_to=first)
        await roomy.next_answer()
        await roomy.say(roomy.dm(), "and this")
        await roomy.next_answer(roomy.dm())
    assert [request.turns[-1].text for request in backend.requests] == ["seen", "seen too", "and this"]


async def test_roles_and_servers_decide_who_may_ask(roomy: DiscordServer, tmp_path: Path) -> None:
    backend, bob = ScriptedBackend("Yes."), roomy.add_person("bob")
    roomy.join(roomy.guild, bob)
    crew = roomy.add_role("crew", bob)
    own = {"allow": Access(roles={str(crew.id)}, guilds={str(roomy.guild.id)})}
    async with talking(roomy, backend, tmp_path, own=own):
        await roomy.say(roomy.general, "may I?")
        await roomy.say(roomy.general, "I may.", author=bob)
        await roomy.next_answer()
    assert [request.turns[-1].text for request in backend.requests] == ["I may."]


async def test_strangers_are_let_in_by_an_admin(roomy: DiscordServer, tmp_path: Path) -> None:
    boss, backend = roomy.add_person("boss"), ScriptedBackend("Yes.")
    roomy.join(roomy.guild, boss)
    async with talking(roomy, backend, tmp_path, own={"pairing": True, "admins": Admins(users={str(boss.id)})}):
        await roomy.say(roomy.dm(), "hello?")
        code = (await roomy.next_answer(roomy.dm())).text.rpartition("/pair ")[2]
        await roomy.say(roomy.dm(boss), f"/pair {code}", author=boss)
        assert "alice" in (await roomy.next_answer(roomy.dm(boss))).text
        await roomy.say(roomy.dm(), "hello!")
        assert (await roomy.next_answer(roomy.dm())).text == "Yes."


async def test_an_edited_message_is_offered_to_be_answered_again(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Paris.", "Rome.")
    async with talking(roomy, backend, tmp_path):
        asked = await roomy.say(roomy.general, "the capital of France?")
        await roomy.next_answer()
        await roomy.edit(asked, "the capital of Italy?")
        offer = await roomy.next_answer()
        pressed = await roomy.click(offer, "answer")
        await roomy.until(lambda: offer.text == "Rome." or None, what="the answer")
        assert not roomy.failed(pressed)
    assert backend.requests[1].turns[-1].text == "the capital of Italy?"


async def test_deleted_messages_leave_the_history(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("One.", "Two.", "Three.")
    async with talking(roomy, backend, tmp_path):
        secret = await roomy.say(roomy.general, "my password is 1234")
        await roomy.next_answer()
        await roomy.delete(secret)
        await roomy.say(roomy.general, "what is my password?")
        await roomy.next_answer()
    assert "1234" not in str(backend.requests[1].turns)


async def test_settings_of_a_channel_apply_in_its_threads(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path) as bridge:
        change(bridge, channels={str(roomy.general.id): ChannelSettings(system="Be a dog.")})
        thread = await roomy.start_thread(roomy.general, "Cats")
        await roomy.say(thread, "who are you?")
        await roomy.next_answer(thread)
    assert backend.requests[0].turns[0].text == "Be a dog."


@pytest.mark.parametrize(("text", "words"), [("/help", "ommands"), ("你好 /nonsense", "Yes.")])
async def test_commands_in_plain_text_work_too(roomy: DiscordServer, tmp_path: Path, text: str, words: str) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.general, text)
        assert words in (await roomy.next_answer()).text
