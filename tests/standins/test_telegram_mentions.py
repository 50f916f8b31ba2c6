"""Whom a stand-in Telegram calls by a message, who seems to have written one, and which edits it allows."""

from __future__ import annotations

import pytest

from chatbridge.testing import TelegramServer
from chatbridge.testing.telegram.mentions import linked_user
from chatbridge.testing.wire.forms import Upload

from .telegram import bot, polling, telegram


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("tg://user?id=7", 7),
        ("TG://USER?ID=7", 7),
        ("tg:user?id=7", 7),
        ("tg://user/?a=b&id=7#x", 7),
        ("tg://user?id=x", None),
        ("tg://users?id=7", None),
        ("https://t.me/user?id=7", None),
        ("tg://resolve?domain=user", None),
    ],
)
def test_which_links_are_people(url: str, user: int | None) -> None:
    assert linked_user(url) == user


async def test_links_to_people_notify_them_however_they_are_written(service: TelegramServer) -> None:
    bob = service.add_person("Bob", username="bob_1")
    group = service.add_group("Town", service.person, bob, service.bot.user)
    link = f"tg://user?id={bob.id}"
    entity = telegram.MessageEntity("text_link", 0, 4, url=link)
    async with bot(service) as caller:
        await caller.send_message(group.id, "here", entities=[entity])
        await caller.send_message(group.id, f'<a href="{link}">here</a>', parse_mode="HTML")
        await caller.send_message(group.id, f"[here]({link})", parse_mode="MarkdownV2")
        await caller.send_message(group.id, "here, @bob_1")
        edited = await caller.send_message(group.id, "here")
        await edited.edit_text("here!", entities=[entity])
        told = [message.entities[0]["type"] for message in service.messages(group)]
        assert told == ["text_mention"] * 3 + ["mention", "text_mention"]
        assert len(service.pings(bob)) == 5
        assert service.pings() == []
        assert [message.pings for message in service.messages(group)] == [["Bob"]] * 5


async def test_nobody_is_called_by_what_mentions_no_member(service: TelegramServer) -> None:
    stranger = service.add_person("Carol", username="carol_1")
    group = service.add_group("Town", service.person, service.bot.user)
    async with bot(service) as caller:
        await caller.send_message(group.id, "@carol_1 @nobody_at_all")
        await caller.send_message(group.id, '<a href="tg://user?id=99">x</a> tg://user?id=99', parse_mode="HTML")
        await caller.send_message(group.id, f"<code>@{service.person.username}</code>", parse_mode="HTML")
        assert [message.pings for message in service.messages(group)] == [[], [], []]
        assert [entity["type"] for entity in service.messages(group)[1].entities] == ["url"]
    assert service.pings(stranger) == []


async def test_a_person_writes_in_the_name_of_a_channel_or_as_nobody(service: TelegramServer) -> None:
    admin, bob = service.person, service.add_person("Bob")
    group = service.add_group("Town", admin, bob, service.bot.user)
    channel = service.add_channel("Bob's channel", owner=bob, username="bobs")
    async with polling(service) as app:
        await service.say(group, "/one", author=bob, behind=channel)
        await service.say(group, "/two", author=admin, behind=group)
        await app.bot_data["inbox"].until(2)
        one, two = (update.message for update in app.bot_data["inbox"].got)
        assert (one.from_user.username, one.sender_chat.id, one.sender_chat.type) == (
            "Channel_Bot",
            channel.id,
            "channel",
        )
        assert (two.from_user.username, two.sender_chat.id) == ("GroupAnonymousBot", group.id)
        assert str(bob.id) not in str(one.to_dict())
    for author, behind in ((admin, channel), (bob, group)):
        with pytest.raises(ValueError, match="in the name of"):
            await service.say(group, "three", author=author, behind=behind)
    with pytest.raises(ValueError, match="in supergroups only"):
        await service.say(service.private(bob), "four", author=bob, behind=channel)


async def test_a_forwarded_message_says_where_it_is_from(service: TelegramServer) -> None:
    group = service.add_group("Town", service.person, service.bot.user)
    async with polling(service) as app:
        said = await service.say(group, "/one")
        forwarded = await service.forward(said, service.private())
        got = (await app.bot_data["inbox"].until(2)).message
        assert (got.text, got.forward_origin.sender_user.id) == ("/one", service.person.id)
    with pytest.raises(ValueError, match="forwarded"):
        await service.edit(forwarded, "two")


async def test_edits_that_telegram_s_clients_do_not_offer(service: TelegramServer) -> None:
    said = await service.say(service.private(), "one")
    file = await service.say(service.private(), "caption", file=Upload("a.txt", b"x", "text/plain"))
    for message, text in ((said, ""), (said, "x" * 4097), (file, "x" * 1025)):
        with pytest.raises(ValueError, match="units"):
            await service.edit(message, text)
    await service.edit(file, "")
    service.clock.advance(48 * 3600 + 1)
    with pytest.raises(ValueError, match="48 hours"):
        await service.edit(said, "two")
    assert said.text == "one"


async def test_an_edit_may_be_told_though_nothing_has_changed(service: TelegramServer) -> None:
    async with polling(service) as app:
        await service.touch(await service.say(service.private(), "one"))
        update = await app.bot_data["inbox"].until(2)
        assert (update.edited_message.text, update.edited_message.edit_date) == ("one", None)
