"""python-telegram-bot, unmodified, against the stand-in Telegram: messages, files, buttons, topics, drafts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chatbridge.testing import TelegramServer
from chatbridge.testing.telegram.state import Message
from chatbridge.testing.wire.forms import Upload

from .telegram import bot, ext, polling, telegram


async def test_a_start_costs_three_calls(service: TelegramServer) -> None:
    async with polling(service) as app:
        assert (app.bot.username, app.bot.bot.is_bot) == ("helper_bot", True)
        await service.calls.wait("deleteWebhook")
        await service.until(lambda: service.calls.to("getUpdates"), what="a poll")
        assert [call.name for call in service.calls] == ["getMe", "deleteWebhook", "getUpdates"]
        assert service.calls[-1].params["timeout"] == "10"


async def test_a_wrong_token_and_an_unknown_method(service: TelegramServer) -> None:
    with pytest.raises(telegram.error.InvalidToken):
        async with bot(service, "1:wrong"):
            pass
    assert (service.calls[-1].status, service.calls[-1].answer["description"]) == (401, "Unauthorized")
    async with bot(service) as caller:
        with pytest.raises(telegram.error.InvalidToken, match="method not found"):
            await caller.send_dice(service.person.id)
        assert service.calls[-1].status == 404


async def test_a_message_and_its_answer(service: TelegramServer) -> None:
    async with polling(service) as app:
        said = await service.say(service.private(), "hello")
        got = (await app.bot_data["inbox"].until()).message
        assert (got.message_id, got.text, got.from_user.first_name) == (said.id, "hello", "Alice")
        answer = await got.reply_text("<b>hello</b>, Alice 🙂", parse_mode="HTML", do_quote=True)
        heard = await service.next_message()
        assert (heard.id, heard.text, heard.reply_to) == (answer.message_id, "hello, Alice 🙂", said)
        assert heard.entities == [{"type": "bold", "offset": 0, "length": 5}]
        await answer.edit_text("goodbye")
        assert (heard.text, heard.entities, heard.history) == ("goodbye", [], ["hello, Alice 🙂"])
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)message is not modified"):
            await answer.edit_text("goodbye")
        await answer.delete()
        assert heard.deleted
        assert service.messages() == []


async def test_a_person_s_edit_is_told_and_a_deletion_is_not(service: TelegramServer) -> None:
    async with polling(service) as app:
        message = await service.say(service.private(), "one")
        await service.edit(message, "two")
        await service.delete(message)
        await service.say(service.private(), "three")
        await app.bot_data["inbox"].until(3)
        told = [(update.edited_message or update.message).text for update in app.bot_data["inbox"].got]
        assert told == ["one", "two", "three"]
        assert app.bot_data["inbox"].got[1].edited_message.edit_date is not None


REFUSED = {
    "message text is empty": {"text": " \n "},
    "message is too long": {"text": "🙂" * 2049},
    "chat not found": {"chat_id": 99, "text": "x"},
    "message to be replied not found": {"text": "x", "reply_to_message_id": 99},
    "message thread not found": {"text": "x", "message_thread_id": 99},
    'can\'t parse entities: unsupported start tag "x" at byte offset 3': {"text": "é <x>", "parse_mode": "HTML"},
    "can't parse entities: can't find end of bold entity at byte offset 4": {
        "text": "猫 *x",
        "parse_mode": "MarkdownV2",
    },
    "unsupported parse_mode": {"text": "x", "parse_mode": "bbcode"},
    "button_data_invalid": {"text": "x", "data": "é" * 33},
}


@pytest.mark.parametrize("why", REFUSED)
async def test_what_telegram_refuses(service: TelegramServer, why: str) -> None:
    given = {"chat_id": service.person.id, **REFUSED[why]}
    if data := given.pop("data", None):
        button = telegram.InlineKeyboardButton("x", callback_data=data)
        given["reply_markup"] = telegram.InlineKeyboardMarkup([[button]])
    async with bot(service) as caller:
        with pytest.raises(telegram.error.BadRequest) as refused:
            await caller.send_message(**given)
        assert refused.value.message.lower() == why
        assert service.messages() == []
        await caller.send_message(service.person.id, "🙂" * 2048)


async def test_a_markdown_mark_that_is_not_escaped_is_refused(service: TelegramServer) -> None:
    async with bot(service) as caller:
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)character '!' is reserved"):
            await caller.send_message(service.person.id, "hello!", parse_mode="MarkdownV2")


async def test_who_has_blocked_the_bot_or_put_it_out(service: TelegramServer) -> None:
    group = service.add_group("Group")
    async with polling(service, allowed_updates=["message", "my_chat_member"]) as app:
        await service.block()
        told = (await app.bot_data["inbox"].until()).my_chat_member
        assert (told.old_chat_member.status, told.new_chat_member.status) == ("member", "kicked")
        with pytest.raises(telegram.error.Forbidden, match="blocked by the user"):
            await app.bot.send_message(service.person.id, "x")
        await service.block(unblock=True)
        await app.bot.send_message(service.person.id, "x")
        await service.let_in(group, service.bot.user, status="kicked")
        with pytest.raises(telegram.error.Forbidden, match="kicked from the supergroup"):
            await app.bot.send_message(group.id, "x")


async def test_a_group_that_became_a_supergroup_says_where_it_is(service: TelegramServer) -> None:
    group = service.add_group("Group", basic=True)
    async with polling(service) as app:
        await app.bot.send_message(group.id, "before")
        new = await service.upgrade(group)
        told = [update.message async for update in _updates(app, 2)]
        assert (told[0].migrate_to_chat_id, told[1].migrate_from_chat_id) == (new.id, group.id)
        with pytest.raises(telegram.error.ChatMigrated) as moved:
            await app.bot.send_message(group.id, "after")
        assert moved.value.new_chat_id == new.id
        await app.bot.send_message(new.id, "after")


async def _updates(app: ext.Application, count: int) -> AsyncIterator[telegram.Update]:
    inbox = app.bot_data["inbox"]
    await inbox.until(count)
    for update in inbox.got[:count]:
        yield update


async def test_privacy_lets_through_what_is_meant_for_the_bot(service: TelegramServer) -> None:
    group = service.add_group("Group")
    curious = service.add_bot("Curious", "curious_bot", privacy=False)
    await service.let_in(group, curious.user)
    async with polling(service) as one, polling(service, curious.token) as two:
        await one.bot.send_message(group.id, "I am here")
        mine = await service.next_message(group)
        for text, about in (
            ("just talk", {}),
            ("hey", {"mention": True}),
            ("and you", {"reply_to": mine}),
            ("/all", {}),
            ("/this@helper_bot now", {}),
            ("/that@curious_bot now", {}),
        ):
            await service.say(group, text, **about)
        told = [update.message.text async for update in _updates(one, 4)]
        assert told == ["@helper_bot hey", "and you", "/all", "/this@helper_bot now"]
        # no bot hears another, so the first bot's own message is not among them
        told = [update.message.text async for update in _updates(two, 7) if update.message]
        assert told[-6:] == [
            "just talk",
            "@helper_bot hey",
            "and you",
            "/all",
            "/this@helper_bot now",
            "/that@curious_bot now",
        ]


async def test_files_go_both_ways(service: TelegramServer) -> None:
    odd = bytes(range(256)) * 400 + b"\r\n--boundary\r\n"
    async with polling(service) as app:
        await service.say(service.private(), "look", file=Upload("a b.txt", odd, "text/plain"))
        await service.say(service.private(), file=Upload("v.ogg", b"ogg", "audio/ogg"), kind="voice")
        await service.say(service.private(), file=Upload("p.jpg", b"jpg", "image/jpeg"), kind="photo")
        document, voice, photo = [update.message async for update in _updates(app, 3)]
        assert (document.caption, document.document.file_name, document.document.file_size) == (
            "look",
            "a b.txt",
            len(odd),
        )
        assert bytes(await (await document.document.get_file()).download_as_bytearray()) == odd
        assert (voice.voice.mime_type, len(photo.photo)) == ("audio/ogg", 1)
        sent = await document.reply_document(odd, caption="*back*", parse_mode="MarkdownV2", filename="答え.txt")
        heard = await service.next_message()
        assert (heard.file.name, heard.file.content, heard.text) == ("答え.txt", odd, "back")
        again = await document.reply_document(sent.document.file_id)
        assert again.document.file_name == "答え.txt"
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)caption is too long"):
            await document.reply_photo(b"x", caption="x" * 1025)
        for kind in ("photo", "voice", "audio", "video"):
            await getattr(app.bot, f"send_{kind}")(service.person.id, b"content")
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)wrong file_id"):
            await app.bot.get_file("nothing")


async def test_a_file_of_more_than_20_mb_can_not_be_fetched(service: TelegramServer) -> None:
    async with polling(service) as app:
        await service.say(service.private(), file=Upload("big", bytes(20 * 2**20 + 1), "application/zip"))
        got = (await app.bot_data["inbox"].until()).message
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)file is too big"):
            await got.document.get_file()


async def test_buttons_are_pressed_and_answered(service: TelegramServer) -> None:
    rows = [[telegram.InlineKeyboardButton("Stop", callback_data="stop")]]
    async with polling(service) as app:
        await app.bot.send_message(service.person.id, "talking", reply_markup=telegram.InlineKeyboardMarkup(rows))
        shown = await service.next_message()
        query = await service.press(shown, "Stop")
        got = (await app.bot_data["inbox"].until()).callback_query
        assert (got.data, got.message.message_id, got.from_user.id) == ("stop", shown.id, service.person.id)
        await got.answer("stopped", show_alert=True)
        assert (query.answered, query.text, query.alert) == (True, "stopped", True)
        await got.edit_message_reply_markup(None)
        assert shown.keyboard == []
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)query is too old"):
            await got.answer()
        late = await service.press(await _with_button(app, service), "Stop")
        service.clock.advance(61)
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)query is too old"):
            await app.bot.answer_callback_query(late.id)
        with pytest.raises(LookupError, match="'Go' can't be pressed"):
            await service.press(shown, "Go")


async def _with_button(app: ext.Application, service: TelegramServer) -> Message:
    rows = [[telegram.InlineKeyboardButton("Stop", callback_data="stop")]]
    await app.bot.send_message(service.person.id, "x", reply_markup=telegram.InlineKeyboardMarkup(rows))
    return await service.next_message()


async def test_forum_topics(service: TelegramServer) -> None:
    forum = service.add_group("Forum", forum=True)
    service.bot.privacy = False
    async with polling(service) as app:
        topic = await service.start_topic(forum, "Cats")
        await service.say(forum, "in here", topic=topic)
        created, said = [update.message async for update in _updates(app, 2)]
        assert (created.forum_topic_created.name, said.message_thread_id, said.is_topic_message) == (
            "Cats",
            topic.id,
            True,
        )
        await said.reply_text("purr", message_thread_id=said.message_thread_id)
        assert (await service.next_message(forum)).thread_id == topic.id
        made = await app.bot.create_forum_topic(forum.id, "Dogs")
        await app.bot.send_message(forum.id, "woof", message_thread_id=made.message_thread_id)
        forum.topics[topic.id].closed = True
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)topic_closed"):
            await app.bot.send_message(forum.id, "x", message_thread_id=topic.id)


async def test_drafts_are_shown_in_private_chats_only_and_for_30_seconds(service: TelegramServer) -> None:
    group = service.add_group("Group")
    every = [*telegram.Update.ALL_TYPES, "stopped_message_generation"]
    async with polling(service, allowed_updates=every) as app:
        me = service.person.id
        await app.bot.send_message_draft(me, 7, "")
        await app.bot.send_message_draft(me, 7, "Once")
        await app.bot.send_message_draft(me, 7, "*Once* upon", parse_mode="MarkdownV2", api_kwargs={"can_stop": True})
        shown = service.draft()
        assert (shown.text, shown.history) == ("Once upon", ["", "Once"])
        await service.stop()
        told = await app.bot_data["inbox"].until()
        assert told.api_kwargs["stopped_message_generation"]["draft_id"] == 7
        assert service.draft() is None
        await app.bot.send_message_draft(me, 8, "again")
        service.clock.advance(31)
        assert service.draft() is None
        await app.bot.send_message_draft(me, 8, "and again")
        await app.bot.send_message(me, "done")
        assert service.draft() is None
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)textdraft_peer_invalid"):
            await app.bot.send_message_draft(group.id, 9, "x")


async def test_rich_messages(service: TelegramServer) -> None:
    async with bot(service) as caller:
        about = {"chat_id": service.person.id, "rich_message": {"markdown": "# Title\n\ntext"}}
        await caller.do_api_request("sendRichMessage", api_kwargs=about)
        heard = await service.next_message()
        assert (heard.kind, heard.text) == ("rich", "# Title\n\ntext")
        await caller.do_api_request("sendRichMessageDraft", api_kwargs=about | {"draft_id": 1})
        assert service.draft().text == "# Title\n\ntext"
        long = {"rich_message": {"markdown": "x" * 32_769}}
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)rich message is too long"):
            await caller.do_api_request("sendRichMessage", api_kwargs=about | long)


async def test_commands_reactions_actions_and_what_is_known_of_chats(service: TelegramServer) -> None:
    group = service.add_group("Group")
    async with bot(service) as caller:
        commands = [telegram.BotCommand("help", "what I can do")]
        chinese = telegram.BotCommandScopeAllGroupChats()
        await caller.set_my_commands(commands)
        await caller.set_my_commands([telegram.BotCommand("help", "帮助")], scope=chinese, language_code="zh")
        assert list(await caller.get_my_commands()) == commands
        assert (await caller.get_my_commands(chinese, "zh"))[0].description == "帮助"
        await caller.delete_my_commands()
        assert await caller.get_my_commands() == ()
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)bot_command_invalid"):
            await caller.set_my_commands([telegram.BotCommand("Help", "no capitals")])
        said = await service.say(group, "x")
        await caller.set_message_reaction(group.id, said.id, "👍")
        assert said.reactions[service.bot.user.id] == [{"type": "emoji", "emoji": "👍"}]
        await caller.send_chat_action(group.id, "typing")
        assert (await caller.get_chat(group.id)).title == "Group"
        assert (await caller.get_chat_member(group.id, service.person.id)).status == "creator"
        assert len(await caller.get_chat_administrators(group.id)) == 1
        await caller.delete_messages(service.person.id, [1, 2])
        assert await caller.delete_message(group.id, (await caller.send_message(group.id, "gone")).message_id)
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)message can't be deleted"):
            await caller.delete_message(group.id, said.id)


async def test_inline_questions(service: TelegramServer) -> None:
    service.bot.inline = True
    async with polling(service) as app:
        assert app.bot.supports_inline_queries
        asked = await service.ask_inline("cats")
        got = (await app.bot_data["inbox"].until()).inline_query
        content = telegram.InputTextMessageContent("meow")
        await got.answer([telegram.InlineQueryResultArticle("1", "A cat", content)])
        assert [result["title"] for result in asked.results] == ["A cat"]
        service.clock.advance(61)
        with pytest.raises(telegram.error.BadRequest, match=r"(?i)query is too old"):
            await got.answer([])
