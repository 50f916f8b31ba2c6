"""The methods of the Bot API that the stand-in knows. Decides nothing: takes calls apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chatbridge.testing.telegram import messages, rules
from chatbridge.testing.telegram.parameters import Parameters
from chatbridge.testing.telegram.payloads import full_chat_json, me_json, member_json, message_json
from chatbridge.testing.telegram.state import Bot, Json, User, Webhook, World, bad_request


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, taken apart. `query_seconds`: in how long the press of a button must be answered."""

    world: World
    bot: Bot
    given: Parameters
    query_seconds: float

    @property
    def all(self) -> tuple[World, Bot, Parameters]:
        return self.world, self.bot, self.given


def _sender(kind: str) -> Callable[[Asked], Json]:
    return lambda asked: message_json(messages.send(*asked.all, kind))


def send_action(asked: Asked) -> bool:
    asked.world.chat(asked.bot, asked.given.text("chat_id"))
    if asked.given.text("action") not in rules.ACTIONS:
        raise bad_request("wrong parameter action in request")
    return True


def get_file(asked: Asked) -> Json:
    file = asked.world.files.get(asked.given.text("file_id"))
    if file is None:
        raise bad_request("wrong file_id or the file is temporarily unavailable")
    if len(file.content) > rules.MAX_DOWNLOAD:
        raise bad_request("file is too big")
    json: Json = {"file_id": file.id, "file_unique_id": f"unique-{file.id}", "file_size": len(file.content)}
    return json | {"file_path": file.path}


def set_webhook(asked: Asked) -> bool:
    given, bot = asked.given, asked.bot
    url, secret = given.text("url"), given.text("secret_token")
    if url and not re.match(r"https://|http://(127\.0\.0\.1|localhost)[:/]", url):
        raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,256}", secret):
        raise bad_request("secret token contains unallowed characters")
    if (allowed := given.object("allowed_updates")) is not None:
        bot.allowed = frozenset(allowed) or None
    if given.flag("drop_pending_updates"):
        bot.updates.clear()
    bot.webhook = Webhook(url, secret) if url else None
    for listener in asked.world.listeners:
        listener(bot)
    return True


def delete_webhook(asked: Asked) -> bool:
    if asked.given.flag("drop_pending_updates"):
        asked.bot.updates.clear()
    asked.bot.webhook = None
    return True


def webhook_info(asked: Asked) -> Json:
    bot, hook = asked.bot, asked.bot.webhook
    json: Json = {"url": hook.url if hook else "", "has_custom_certificate": False}
    json["pending_update_count"] = len(bot.updates)
    if hook is not None and hook.error:
        json |= {"last_error_message": hook.error, "last_error_date": int(hook.error_at)}
    return json | ({} if bot.allowed is None else {"allowed_updates": sorted(bot.allowed)})


def _scope(asked: Asked) -> str:
    scope = asked.given.object("scope") or {"type": "default"}
    return " ".join(str(scope[name]) for name in sorted(scope)) + asked.given.text("language_code")


def set_commands(asked: Asked) -> bool:
    commands = asked.given.object("commands") or []
    if len(commands) > 100:
        raise bad_request("BOT_COMMANDS_TOO_MUCH")
    for command in commands:
        if not re.fullmatch(r"[a-z0-9_]{1,32}", str(command.get("command"))):
            raise bad_request("BOT_COMMAND_INVALID")
        if not 1 <= len(str(command.get("description") or "")) <= 256:
            raise bad_request("BOT_COMMAND_DESCRIPTION_INVALID")
    asked.bot.commands[_scope(asked)] = commands
    return True


def get_commands(asked: Asked) -> list[Json]:
    return asked.bot.commands.get(_scope(asked), [])


def delete_commands(asked: Asked) -> bool:
    asked.bot.commands.pop(_scope(asked), None)
    return True


def set_reaction(asked: Asked) -> bool:
    chat = asked.world.chat(asked.bot, asked.given.text("chat_id"))
    message = chat.messages.get(asked.given.integer("message_id") or 0)
    if message is None:
        raise bad_request("message to react not found")
    message.reactions[asked.bot.user.id] = asked.given.object("reaction") or []
    return True


def get_chat(asked: Asked) -> Json:
    return full_chat_json(asked.world.chat(asked.bot, asked.given.text("chat_id")))


def _user(asked: Asked) -> User:
    number = asked.given.integer("user_id") or 0
    if number not in asked.world.users:
        raise bad_request("invalid user_id specified")
    return asked.world.users[number]


def get_member(asked: Asked) -> Json:
    chat, user = asked.world.chat(asked.bot, asked.given.text("chat_id")), _user(asked)
    own = chat.person is user or asked.bot.user is user
    status = "member" if chat.person is not None and own else chat.members.get(user.id, "left")
    return member_json(chat, user, status)


def get_administrators(asked: Asked) -> list[Json]:
    chat = asked.world.chat(asked.bot, asked.given.text("chat_id"))
    found = [(number, status) for number, status in chat.members.items() if status in ("creator", "administrator")]
    return [member_json(chat, asked.world.users[number], status) for number, status in found]


def create_topic(asked: Asked) -> Json:
    chat = asked.world.chat(asked.bot, asked.given.text("chat_id"))
    if not chat.forum:
        raise bad_request("the chat is not a forum")
    name = asked.given.text("name")
    if not 1 <= len(name) <= 128:
        raise bad_request("TOPIC_TITLE_INVALID")
    about: Json = {"name": name, "icon_color": asked.given.integer("icon_color") or messages.ICON_COLOR}
    topic = messages.start_topic(asked.world, chat, asked.bot.user, about)
    return {"message_thread_id": topic.id} | about


def answer_query(asked: Asked) -> bool:
    return messages.answer_query(*asked.all, asked.query_seconds)


def answer_inline(asked: Asked) -> bool:
    return messages.answer_inline(*asked.all, asked.query_seconds)


METHODS: Mapping[str, Callable[[Asked], Any]] = {
    "getMe": lambda asked: me_json(asked.bot),
    "logOut": lambda asked: True,
    "close": lambda asked: True,
    "setWebhook": set_webhook,
    "deleteWebhook": delete_webhook,
    "getWebhookInfo": webhook_info,
    "sendMessage": _sender("text"),
    "sendRichMessage": _sender("rich"),
    "sendDocument": _sender("document"),
    "sendPhoto": _sender("photo"),
    "sendVoice": _sender("voice"),
    "sendAudio": _sender("audio"),
    "sendVideo": _sender("video"),
    "sendMessageDraft": lambda asked: messages.draft(*asked.all),
    "sendRichMessageDraft": lambda asked: messages.draft(*asked.all, rich=True),
    "sendChatAction": send_action,
    "editMessageText": lambda asked: message_json(messages.edit_text(*asked.all)),
    "editMessageCaption": lambda asked: message_json(messages.edit_caption(*asked.all)),
    "editMessageReplyMarkup": lambda asked: message_json(messages.edit_keyboard(*asked.all)),
    "deleteMessage": lambda asked: messages.delete(*asked.all),
    "deleteMessages": lambda asked: messages.delete_many(*asked.all),
    "setMessageReaction": set_reaction,
    "answerCallbackQuery": answer_query,
    "answerInlineQuery": answer_inline,
    "getFile": get_file,
    "setMyCommands": set_commands,
    "getMyCommands": get_commands,
    "deleteMyCommands": delete_commands,
    "getChat": get_chat,
    "getChatMember": get_member,
    "getChatAdministrators": get_administrators,
    "createForumTopic": create_topic,
}
