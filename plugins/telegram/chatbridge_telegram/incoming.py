"""Telegram's messages as chatbridge's: who wrote what, where, to whom, and with which files. Makes no answer."""

from __future__ import annotations

import re
from dataclasses import replace

import telegram
from telegram.constants import MessageEntityType

from chatbridge import Author, Message, without_name
from chatbridge_telegram.channels import channel_of


def author_of(message: telegram.Message) -> Author:
    """Who wrote a message: a person, a bot, or the chat in whose name somebody writes."""
    user, chat = message.from_user, message.sender_chat
    if chat is not None:  # an anonymous admin, or a channel: Telegram hides whose words they are
        return Author(str(chat.id), chat.title or chat.full_name or "", anonymous=True)
    assert user is not None  # only channels have none, and their posts come as updates of another kind
    return Author(str(user.id), user.full_name, user.is_bot)


def message_of(given: telegram.Message, me: telegram.User) -> Message | None:
    """What somebody said, without files; None for what is not for this bot: what happens in chats, another bot's
    commands."""
    text = given.text or given.caption or ""
    if not (text or has_file(given)) or given.is_automatic_forward:
        return None
    mentioned = _mentions(given, me)
    command, called = _command(text)
    if command and called and called.lower() != (me.username or "").lower():
        return None
    if command and called:
        text = text.replace(f"@{called}", "", 1)
    elif mentioned:
        text = without_name(text, rf"@{re.escape(me.username or '')}\b")
    if re.match(r"/start(\s|$)", text) and given.chat.type == "private":
        text = "/help"  # the button that opens a chat says `/start`
    replied = given.reply_to_message
    if replied is not None and replied.forum_topic_created is not None:
        replied = None  # each message of a topic replies to its birth
    message = Message(
        str(given.message_id),
        channel_of(given),
        author_of(given),
        text,
        sent_at=given.date.timestamp(),
        mentions_bot=mentioned or bool(called),
        language=(given.from_user.language_code or "") if given.from_user else "",
    )
    if replied is None:
        return message
    ours = replied.from_user is not None and replied.from_user.id == me.id
    quote = given.quote.text if given.quote is not None else replied.text or replied.caption or ""
    if ours and given.quote is None:
        quote = ""  # the conversation has it
    return replace(message, reply_to=str(replied.message_id), replies_to_bot=ours, quoted=quote)


def _mentions(message: telegram.Message, me: telegram.User) -> bool:
    kinds: list[str | None] = [MessageEntityType.MENTION, MessageEntityType.TEXT_MENTION]
    found = message.parse_entities(kinds) if message.text else message.parse_caption_entities(kinds)
    name = f"@{me.username}".lower()
    return any(text.lower() == name or (one.user is not None and one.user.id == me.id) for one, text in found.items())


def _command(text: str) -> tuple[str, str]:
    """The command that a text begins with, and the bot that it is for: "" where there is none."""
    match = re.match(r"/(\w+)(?:@(\w+))?(?=\s|$)", text)
    return (match[1], match[2] or "") if match else ("", "")


def has_file(message: telegram.Message) -> bool:
    """Whether a file came along that a bot may want to read."""
    return message.effective_attachment is not None and bool(
        message.document or message.photo or message.voice or message.audio or message.video or message.video_note
    )
