"""Who is heard where: private chats, groups, topics, replies, other bots; in the settings' own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge import ChannelSettings
from chatbridge.config import Access, Admins
from chatbridge.testing import ScriptedBackend, TelegramServer, channel_settings

from .conftest import talking

MENTIONS = channel_settings(reply_to="mentions")


async def test_a_group_hears_the_bot_when_it_is_meant(roomy: TelegramServer, tmp_path: Path) -> None:
    group, backend = roomy.add_group("Club"), ScriptedBackend("Yes.")
    roomy.bot.privacy = False
    bob = roomy.add_person("Bob")
    group.members[bob.id] = "member"
    async with talking(roomy, backend, tmp_path, defaults=MENTIONS):
        await roomy.say(group, "not for you")
        await roomy.say(group, ", are you there?", mention=True)
        first = await roomy.next_answer(group)
        asked = await roomy.say(group, "and I?", author=bob, reply_to=first)
        second = await roomy.next_answer(group)
        assert second.reply_to is asked
        await roomy.say(group, "/help@helper_bot")
        assert "/regenerate" in (await roomy.next_answer(group)).text
        await roomy.say(group, "last", mention=True)
        await roomy.next_answer(group)
    said = [(request.turns[-1].name, request.turns[-1].text) for request in backend.requests]
    assert said == [("Alice", "are you there?"), ("Bob", "and I?"), ("Alice", "last")]


async def test_another_bot_s_commands_are_not_heard(roomy: TelegramServer, tmp_path: Path) -> None:
    group, backend = roomy.add_group("Club"), ScriptedBackend("Yes.")
    roomy.bot.privacy = False
    async with talking(roomy, backend, tmp_path):
        await roomy.say(group, "/help@other_bot")
        await roomy.say(group, "hello")
        assert (await roomy.next_answer(group)).text == "Yes.", "an answer to hello, and to nothing before"
        assert len(roomy.messages(group)) == 1
    assert [request.turns[-1].text for request in backend.requests] == ["hello"]


async def test_a_topic_is_a_conversation_of_its_own_and_answered_in_it(roomy: TelegramServer, tmp_path: Path) -> None:
    forum, backend = roomy.add_group("Forum", forum=True), ScriptedBackend("Yes.")
    roomy.bot.privacy = False
    async with talking(roomy, backend, tmp_path):
        cats, dogs = await roomy.start_topic(forum, "Cats"), await roomy.start_topic(forum, "Dogs")
        await roomy.say(forum, "meow", topic=cats)
        assert (await roomy.next_answer(forum)).thread_id == cats.id
        await roomy.say(forum, "woof", topic=dogs)
        assert (await roomy.next_answer(forum)).thread_id == dogs.id
        await roomy.say(forum, "hm")
        assert (await roomy.next_answer(forum)).thread_id is None
    assert [len(request.turns) for request in backend.requests] == [len(backend.requests[0].turns)] * 3
    assert [request.turns[-1].text for request in backend.requests] == ["meow", "woof", "hm"]


async def test_to_say_something_in_a_topic_is_not_to_reply_to_who_made_it(
    roomy: TelegramServer, tmp_path: Path
) -> None:
    forum, backend = roomy.add_group("Forum", forum=True), ScriptedBackend("Yes.")
    roomy.bot.privacy = False
    topic = await roomy.start_topic(forum, "Made by the bot", user=roomy.bot.user)
    async with talking(roomy, backend, tmp_path, defaults=MENTIONS):
        await roomy.say(forum, "not for you", topic=topic)
        await roomy.say(forum, "for you", topic=topic, mention=True)
        await roomy.next_answer(forum)
    assert [request.turns[-1].text for request in backend.requests] == ["for you"]


async def test_settings_of_a_topic_stand_over_those_of_its_group(roomy: TelegramServer, tmp_path: Path) -> None:
    forum, backend = roomy.add_group("Forum", forum=True), ScriptedBackend("Yes.")
    roomy.bot.privacy = False
    cats = await roomy.start_topic(forum, "Cats")
    channels = {
        str(forum.id): ChannelSettings(system="Be a dog."),
        f"{forum.id}:{cats.id}": ChannelSettings(system="Be a cat."),
    }
    async with talking(roomy, backend, tmp_path, own={"channels": channels}):
        await roomy.say(forum, "who are you?", topic=cats)
        await roomy.next_answer(forum)
        await roomy.say(forum, "who are you?")
        await roomy.next_answer(forum)
    assert [request.turns[0].text for request in backend.requests] == ["Be a cat.", "Be a dog."]


async def test_what_is_replied_to_is_told_to_the_model(roomy: TelegramServer, tmp_path: Path) -> None:
    group, backend = roomy.add_group("Club"), ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path, defaults=MENTIONS):
        unheard = await roomy.say(group, "The moon is made of cheese.")
        await roomy.say(group, "is that so?", mention=True, reply_to=unheard)
        await roomy.next_answer(group)
    assert backend.requests[0].turns[-1].text == "> The moon is made of cheese.\n\nis that so?"


async def test_an_edited_message_is_offered_to_be_answered_again(roomy: TelegramServer, tmp_path: Path) -> None:
    backend = ScriptedBackend("Paris.", "Rome.")
    async with talking(roomy, backend, tmp_path):
        asked = await roomy.say(roomy.private(), "the capital of France?")
        await roomy.next_answer()
        await roomy.edit(asked, "the capital of Italy?")
        offer = await roomy.next_answer()
        assert offer.keyboard[0][0]["callback_data"] == "answer"
        await roomy.press(offer, "answer")
        await roomy.until(lambda: offer.text == "Rome." or None, what="the answer")
    assert backend.requests[1].turns[-1].text == "the capital of Italy?"


async def test_the_button_that_opens_a_chat_shows_what_can_be_done(roomy: TelegramServer, tmp_path: Path) -> None:
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path):
        await roomy.say(roomy.private(), "/start")
        assert "/regenerate" in (await roomy.next_answer()).text


@pytest.mark.parametrize(("language", "words"), [("zh-hans", "命令"), ("en", "ommand")])
async def test_people_are_spoken_to_in_their_language(
    roomy: TelegramServer, tmp_path: Path, language: str, words: str
) -> None:
    roomy.person.language = language
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, defaults=channel_settings(language="auto")):
        await roomy.say(roomy.private(), "/help")
        assert words in (await roomy.next_answer()).text


async def test_strangers_are_let_in_by_an_admin(roomy: TelegramServer, tmp_path: Path) -> None:
    boss, backend = roomy.add_person("Boss"), ScriptedBackend("Yes.")
    async with talking(roomy, backend, tmp_path, own={"pairing": True, "admins": Admins(users={str(boss.id)})}):
        await roomy.say(roomy.private(), "hello?")
        code = (await roomy.next_answer()).text.rpartition("/pair ")[2]
        chat = roomy.private(boss)
        await roomy.say(chat, f"/pair {code}", author=boss)
        assert "Alice" in (await roomy.next_answer(chat)).text
        await roomy.say(roomy.private(), "hello!")
        assert (await roomy.next_answer()).text == "Yes."
    assert len(backend.requests) == 1


async def test_who_is_denied_is_not_heard(roomy: TelegramServer, tmp_path: Path) -> None:
    bob = roomy.add_person("Bob")
    deny = Access(users={str(roomy.person.id)})
    async with talking(roomy, ScriptedBackend("Yes."), tmp_path, own={"deny": deny}):
        await roomy.say(roomy.private(), "hello?")
        await roomy.say(roomy.private(bob), "hello?", author=bob)
        assert (await roomy.next_answer(roomy.private(bob))).text == "Yes."
        assert roomy.messages() == []


async def test_nobody_is_called_by_an_answer(roomy: TelegramServer, tmp_path: Path) -> None:
    group = roomy.add_group("Club")
    async with talking(roomy, ScriptedBackend("@everyone ask @alice or [her](tg://user?id=1)"), tmp_path):
        await roomy.say(group, "hello", mention=True)
        answer = await roomy.next_answer(group)
        assert "ask" in answer.text
        assert [one for one in answer.entities if one["type"] in ("mention", "text_mention")] == []
