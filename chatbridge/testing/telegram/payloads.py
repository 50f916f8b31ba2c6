"""The JSON that Telegram writes of what it holds. Decides nothing."""

from __future__ import annotations

from chatbridge.testing.telegram.state import PRIVATE, SERVICE, Bot, CallbackQuery, Chat, File, Json, Message, User

FAKE_SENDERS = {
    "channel": {"id": 136817688, "is_bot": True, "first_name": "Channel", "username": "Channel_Bot"},
    "supergroup": {"id": 1087968824, "is_bot": True, "first_name": "Group", "username": "GroupAnonymousBot"},
}
"""Whom `from` names where somebody wrote in a chat's name (Bot API, `Message.sender_chat`); no bot learns who."""


def user_json(user: User) -> Json:
    json: Json = {"id": user.id, "is_bot": user.is_bot, "first_name": user.first_name}
    if user.username:
        json["username"] = user.username
    return json if user.is_bot else json | {"language_code": user.language}


def me_json(bot: Bot) -> Json:
    """What a bot is told of itself."""
    switches = {
        "can_join_groups": True,
        "can_read_all_group_messages": not bot.privacy,
        "supports_inline_queries": bot.inline,
    }
    more = dict.fromkeys(
        (
            "can_connect_to_business",
            "has_main_web_app",
            "has_topics_enabled",
            "allows_users_to_create_topics",
            "can_manage_bots",
            "supports_guest_queries",
        ),
        False,
    )
    return user_json(bot.user) | switches | more


def chat_json(chat: Chat) -> Json:
    json: Json = {"id": chat.id, "type": chat.kind}
    if chat.kind == PRIVATE:
        assert chat.person is not None
        json["first_name"] = chat.person.first_name
        return json | ({"username": chat.person.username} if chat.person.username else {})
    json["title"] = chat.title
    if chat.username:
        json["username"] = chat.username
    return json | ({"is_forum": True} if chat.forum else {})


def full_chat_json(chat: Chat) -> Json:
    """What getChat tells."""
    gifts = dict.fromkeys(("unlimited_gifts", "limited_gifts", "unique_gifts", "premium_subscription"), True)
    more = {
        "accent_color_id": 0,
        "max_reaction_count": 11,
        "accepted_gift_types": gifts | {"gifts_from_channels": True},
    }
    return chat_json(chat) | more


def member_json(chat: Chat, user: User, status: str) -> Json:
    json: Json = {"status": status, "user": user_json(user)}
    if status == "administrator":
        can = (
            "can_be_edited is_anonymous can_manage_chat can_delete_messages can_manage_video_chats "
            "can_restrict_members can_promote_members can_change_info can_invite_users can_post_stories "
            "can_edit_stories can_delete_stories can_send_welcome_messages"
        )
        json |= {name: name in ("can_manage_chat", "can_delete_messages") for name in can.split()}
    elif status == "creator":
        json["is_anonymous"] = False
    elif status == "kicked":
        json["until_date"] = 0
    return json


def file_json(file: File, kind: str, details: Json) -> Json | list[Json]:
    """A file as a message tells of it: a photo in its one size, all else with its name and type."""
    json: Json = {"file_id": file.id, "file_unique_id": f"unique-{file.id}", "file_size": len(file.content)}
    if kind == "photo":
        return [json | {"width": 640, "height": 480}]
    json |= {"mime_type": file.content_type} | details
    if kind == "video":
        json |= {"width": 640, "height": 480}
    return json if kind == "voice" else json | {"file_name": file.name}


def message_json(message: Message, *, inner: bool = False) -> Json:
    """A message; `inner`: replied to, so told without what it replied to."""
    json: Json = {
        "message_id": message.id,
        "from": user_json(message.sender),
        "chat": chat_json(message.chat),
        "date": int(message.at),
    }
    if message.sender_chat is not None:
        json |= {"from": FAKE_SENDERS[message.sender_chat.kind], "sender_chat": chat_json(message.sender_chat)}
    if message.origin is not None:
        json["forward_origin"] = message.origin
    if message.kind == "text":
        json["text"] = message.text
        json |= {"entities": message.entities} if message.entities else {}
    elif message.file is not None:
        json[message.kind] = file_json(message.file, message.kind, message.details)
        json |= {"caption": message.text} if message.text else {}
        json |= {"caption_entities": message.entities} if message.entities else {}
    elif message.kind == "rich":
        json["rich_message"] = message.details
    else:
        json |= message.details
    if message.edited is not None:
        json["edit_date"] = int(message.edited)
    if message.thread_id is not None:
        json |= {"message_thread_id": message.thread_id, "is_topic_message": True}
    replied = message.reply_to or _birth(message)
    if replied is not None and not replied.deleted and not inner:
        json["reply_to_message"] = message_json(replied, inner=True)
    if message.keyboard:
        json["reply_markup"] = {"inline_keyboard": message.keyboard}
    return json


def _birth(message: Message) -> Message | None:
    """What a message of a topic replies to, unless it replies to another one: that the topic was made."""
    found = message.chat.messages.get(message.thread_id or 0)
    return found if found is not None and found.kind == SERVICE and found is not message else None


def query_json(query: CallbackQuery) -> Json:
    return {
        "id": query.id,
        "from": user_json(query.user),
        "message": message_json(query.message),
        "chat_instance": str(query.message.chat.id),
        "data": query.data,
    }
