"""The life of messages: sent, edited, deleted, drafted, pressed. Knows no HTTP; what it refuses it raises."""

from __future__ import annotations

from chatbridge.testing.telegram import mentions, rules
from chatbridge.testing.telegram.parameters import Parameters
from chatbridge.testing.telegram.payloads import chat_json, query_json, user_json
from chatbridge.testing.telegram.state import (
    PRIVATE,
    SERVICE,
    Bot,
    CallbackQuery,
    Chat,
    Draft,
    File,
    InlineQuery,
    Json,
    Message,
    Topic,
    User,
    World,
    bad_request,
)
from chatbridge.testing.telegram.updates import tell, tell_message

DRAFT_SECONDS = 30
ICON_COLOR = 7322096
NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are exactly the same as a current "
    "content and reply markup of the message"
)


def put(world: World, chat: Chat, sender: User, kind: str = "text", **fields: object) -> Message:
    """A message in a chat, told to the bots that hear it."""
    if chat.kind == PRIVATE and chat.bot is not None:
        number = chat.bot.next_message
        chat.bot.next_message += 1
    else:
        number = chat.next_message
        chat.next_message += 1
    message = Message(number, chat, sender, world.clock(), kind=kind, **fields)  # type: ignore[arg-type]
    message.notified = mentions.notified(world, chat, message.text, message.entities)
    chat.messages[number] = message
    if sender.is_bot:
        chat.draft = None
    tell_message(world, message)
    return message


def send(world: World, bot: Bot, given: Parameters, kind: str) -> Message:
    """What a bot sends with sendMessage, sendRichMessage, or with a file of this kind."""
    chat = world.chat(bot, given.text("chat_id"))
    file: File | None = None
    details: Json = {}
    if kind == "text":
        text, entities = rules.message_text(given)
    elif kind == "rich":
        (text, details), entities = rules.rich(given), []
    else:
        text, entities = rules.caption(given)
    thread, replied = rules.topic(given, chat), rules.reply_to(given, chat)
    keyboard = rules.keyboard(given)
    if kind not in ("text", "rich"):
        file = rules.stored(world, given, kind)
        details = {"duration": given.integer("duration") or 0} if kind in ("voice", "audio", "video") else {}
    if thread is None and replied is not None:
        thread = replied.thread_id
    silent = given.flag("disable_notification")
    return put(
        world,
        chat,
        bot.user,
        kind,
        text=text,
        entities=mentions.resolved(world, entities),
        file=file,
        details=details,
        silent=silent,
        keyboard=keyboard,
        thread_id=thread,
        reply_to=replied,
    )


def own(world: World, bot: Bot, given: Parameters) -> Message:
    """The bot's message that is to be edited."""
    chat, number = world.chat(bot, given.text("chat_id")), given.integer("message_id")
    if number is None:
        raise bad_request("message identifier is not specified")
    found = chat.messages.get(number)
    if found is None:
        raise bad_request("message to edit not found")
    if found.sender is not bot.user:
        raise bad_request("message can't be edited")
    return found


def edit_text(world: World, bot: Bot, given: Parameters) -> Message:
    """Change the text of a message, and its buttons: those that are not given again are gone."""
    message = own(world, bot, given)
    if message.kind == "rich" or given.object("rich_message"):
        text, details = rules.rich(given)
        return _changed(world, message, text, [], rules.keyboard(given), "rich", details)
    if message.kind != "text":
        raise bad_request("there is no text in the message to edit")
    text, entities = rules.message_text(given)
    return _changed(world, message, text, entities, rules.keyboard(given), "text", {})


def edit_caption(world: World, bot: Bot, given: Parameters) -> Message:
    """The same for the caption of a file."""
    message = own(world, bot, given)
    if message.file is None:
        raise bad_request("there is no caption in the message to edit")
    text, entities = rules.caption(given)
    return _changed(world, message, text, entities, rules.keyboard(given), message.kind, message.details)


def edit_keyboard(world: World, bot: Bot, given: Parameters) -> Message:
    """Change the buttons of a message."""
    message = own(world, bot, given)
    return _changed(
        world, message, message.text, message.entities, rules.keyboard(given), message.kind, message.details
    )


def _changed(
    world: World,
    message: Message,
    text: str,
    entities: list[Json],
    keyboard: list[list[Json]],
    kind: str,
    details: Json,
) -> Message:
    entities = mentions.resolved(world, entities)
    new = (text, entities, keyboard, kind, details)
    if new == (message.text, message.entities, message.keyboard, message.kind, message.details):
        raise bad_request(NOT_MODIFIED)
    if text != message.text:
        message.history.append(message.text)
    message.text, message.entities, message.keyboard, message.kind, message.details = new
    message.edited = world.clock()
    _notify_more(world, message)
    return message


def _notify_more(world: World, message: Message) -> None:
    """An edit calls those who were not called before."""
    called = mentions.notified(world, message.chat, message.text, message.entities)
    message.notified += [user for user in called if user not in message.notified]


def delete(world: World, bot: Bot, given: Parameters) -> bool:
    """Delete a message: the bot's own, or anyone's in a private chat or as an administrator."""
    chat = world.chat(bot, given.text("chat_id"))
    found = chat.messages.get(given.integer("message_id") or 0)
    if found is None:
        raise bad_request("message to delete not found")
    may = found.sender is bot.user or chat.kind == PRIVATE or chat.members.get(bot.user.id) == "administrator"
    if not may or world.clock() - found.at > 48 * 3600:
        raise bad_request("message can't be deleted")
    gone(found)
    return True


def delete_many(world: World, bot: Bot, given: Parameters) -> bool:
    """Delete up to 100 messages; those that are not there are passed over."""
    chat = world.chat(bot, given.text("chat_id"))
    numbers = given.object("message_ids") or []
    if not 1 <= len(numbers) <= 100:
        raise bad_request("message identifiers are not specified" if not numbers else "too many message identifiers")
    for number in numbers:
        if int(number) in chat.messages:
            gone(chat.messages[int(number)])
    return True


def gone(message: Message) -> None:
    """Take a message away, as if it had not been."""
    message.deleted = True
    del message.chat.messages[message.id]


def draft(world: World, bot: Bot, given: Parameters, *, rich: bool = False) -> bool:
    """Show a person a message being written; empty text shows `Thinking…`."""
    chat = world.chat(bot, given.text("chat_id"))
    rules.check_private(chat)
    number = given.integer("draft_id")
    if not number:
        raise bad_request("TEXTDRAFT_ID_INVALID")
    thread = rules.topic(given, chat)
    text = rules.rich(given)[0] if rich else rules.message_text(given)[0] if "text" in given else ""
    now, old = world.clock(), current_draft(world, chat)
    if old is None or old.id != number:
        chat.draft = old = Draft(number, text, now, thread_id=thread)
    else:
        old.history.append(old.text)
        old.text, old.at = text, now
    old.can_stop = given.flag("can_stop")
    return True


def current_draft(world: World, chat: Chat) -> Draft | None:
    """What a person now sees being written."""
    found = chat.draft
    return found if found is not None and world.clock() - found.at < DRAFT_SECONDS else None


def stop_draft(world: World, chat: Chat) -> None:
    """The person presses the button that stops a draft; LookupError where there is none."""
    found = current_draft(world, chat)
    if found is None or not found.can_stop or chat.bot is None:
        raise LookupError("nothing is being written that could be stopped")
    thread = {"message_thread_id": found.thread_id} if found.thread_id else {}
    chat.draft = None
    tell(world, chat.bot, "stopped_message_generation", {"chat": chat_json(chat), "draft_id": found.id} | thread)


def press(world: World, bot: Bot, user: User, message: Message, data: str) -> CallbackQuery:
    """A person presses a button."""
    query = CallbackQuery(str(world.new_id()), bot, user, message, data, world.clock())
    world.queries[query.id] = query
    tell(world, bot, "callback_query", query_json(query))
    return query


def answer_query(world: World, bot: Bot, given: Parameters, seconds: float) -> bool:
    """The bot answers a press of a button, once and in time."""
    query = world.queries.get(given.text("callback_query_id"))
    if query is None or query.bot is not bot or query.answered or world.clock() - query.at > seconds:
        raise bad_request("query is too old and response timeout expired or query ID is invalid")
    if len(given.text("text")) > 200:
        raise bad_request("MESSAGE_TOO_LONG")
    query.answered, query.text, query.alert = True, given.text("text"), given.flag("show_alert")
    return True


def start_topic(world: World, chat: Chat, user: User, about: Json) -> Topic:
    """A new topic of a forum, `about` which the message of its birth tells; it has that one's id."""
    message = put(world, chat, user, SERVICE, details={"forum_topic_created": about})
    message.thread_id = message.id
    topic = chat.topics[message.id] = Topic(message.id, about["name"])
    return topic


def ask_inline(world: World, bot: Bot, user: User, text: str) -> InlineQuery:
    """A person asks a bot from any chat, by its name."""
    query = InlineQuery(str(world.new_id()), bot, user, text, world.clock())
    world.inline_queries[query.id] = query
    tell(world, bot, "inline_query", {"id": query.id, "from": user_json(user), "query": text, "offset": ""})
    return query


def answer_inline(world: World, bot: Bot, given: Parameters, seconds: float) -> bool:
    """The bot answers such a question, in time."""
    query = world.inline_queries.get(given.text("inline_query_id"))
    if query is None or query.bot is not bot or world.clock() - query.at > seconds:
        raise bad_request("query is too old and response timeout expired or query ID is invalid")
    results = given.object("results") or []
    if len(results) > 50:
        raise bad_request("RESULTS_TOO_MUCH")
    ids = [str(result.get("id") or "") for result in results]
    if len(set(ids)) < len(ids) or not all(1 <= len(one.encode()) <= 64 for one in ids):
        raise bad_request("RESULT_ID_DUPLICATE" if len(set(ids)) < len(ids) else "RESULT_ID_INVALID")
    query.results = results
    return True


def edited_by_person(world: World, message: Message, text: str, entities: list[Json]) -> None:
    """A person edits their message."""
    rules.check_person_edit(message, text, world.clock())
    if text != message.text:
        message.history.append(message.text)
        message.edited = world.clock()
    message.text, message.entities = text, entities
    _notify_more(world, message)
    tell_message(world, message, "edited_message")
