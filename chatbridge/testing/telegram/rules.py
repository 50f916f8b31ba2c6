"""What messages may hold: text in each parse mode, keyboards, files, replies, topics. Knows no method and no HTTP."""

from __future__ import annotations

from chatbridge.testing.telegram.parameters import Parameters
from chatbridge.testing.telegram.parse_html import parse_html
from chatbridge.testing.telegram.parse_markdown import parse_markdown, parse_markdown_v2
from chatbridge.testing.telegram.state import PRIVATE, SERVICE, Chat, File, Json, Message, World, bad_request
from chatbridge.testing.telegram.text import MAX_CAPTION, MAX_TEXT, checked_entities, clean, utf16_length
from chatbridge.testing.wire.forms import Upload

EDIT_SECONDS = 48 * 3600
"""For how long people may edit what they wrote. Bots may edit their own at any time (Bot API, `editMessageText`)."""
MAX_UPLOAD, MAX_PHOTO, MAX_DOWNLOAD = 50 * 2**20, 10 * 2**20, 20 * 2**20
MAX_RICH, MAX_BLOCKS = 32_768, 500
_MODES = {"html": parse_html, "markdownv2": parse_markdown_v2, "markdown": parse_markdown}
ACTIONS = frozenset(
    {
        "typing",
        "upload_photo",
        *("record_video", "upload_video", "record_voice", "upload_voice", "record_video_note", "upload_video_note"),
        "upload_document",
        "choose_sticker",
        "find_location",
    }
)


def parsed(given: Parameters, name: str, entities: str = "entities") -> tuple[str, list[Json]]:
    """The text of a parameter and its entities, by the parse mode or as given with it."""
    text, mode = given.text(name), given.text("parse_mode").lower()
    try:
        if mode:
            if mode not in _MODES:
                raise bad_request("unsupported parse_mode")
            return clean(*_MODES[mode](text))
        return clean(text, checked_entities(given.object(entities) or [], text))
    except ValueError as error:
        raise bad_request(f"can't parse entities: {error}") from None


def message_text(given: Parameters) -> tuple[str, list[Json]]:
    """The text of a message; refused where there is none, or too much."""
    if "text" not in given:
        raise bad_request("message text is empty")
    text, entities = parsed(given, "text")
    if not text:
        raise bad_request("message text is empty")
    if utf16_length(text) > MAX_TEXT:
        raise bad_request("message is too long")
    return text, entities


def caption(given: Parameters) -> tuple[str, list[Json]]:
    """The caption of a file, which may be missing."""
    text, entities = parsed(given, "caption", "caption_entities")
    if utf16_length(text) > MAX_CAPTION:
        raise bad_request("message caption is too long")
    return text, entities


def keyboard(given: Parameters) -> list[list[Json]]:
    """The inline buttons; other keyboards are taken, and not kept."""
    markup = given.object("reply_markup")
    if not markup or "inline_keyboard" not in markup:
        return []
    rows: list[list[Json]] = [list(row) for row in markup["inline_keyboard"] if row]
    if sum(map(len, rows)) > 100:
        raise bad_request("reply markup is too long")
    for row in rows:
        for button in row:
            if not str(button.get("text") or ""):
                raise bad_request('can\'t parse inline keyboard button: Field "text" must be of type String')
            data = button.get("callback_data")
            if data is not None and not 1 <= len(str(data).encode()) <= 64:
                raise bad_request("BUTTON_DATA_INVALID")
            if data is None and not any(
                name in button for name in ("url", "copy_text", "switch_inline_query", "web_app")
            ):
                raise bad_request(
                    "can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard"
                )
    return rows


def topic(given: Parameters, chat: Chat) -> int | None:
    """The topic that a message is for; None for the general one."""
    number = given.integer("message_thread_id")
    if number is None or (number == 1 and chat.forum):
        return None
    found = chat.topics.get(number)
    if found is None:
        raise bad_request("message thread not found")
    if found.closed:
        raise bad_request("TOPIC_CLOSED")
    return number


def reply_to(given: Parameters, chat: Chat) -> Message | None:
    """The message that is replied to."""
    about = given.object("reply_parameters") or {}
    number = about.get("message_id", given.integer("reply_to_message_id"))
    if number is None:
        return None
    found = chat.messages.get(int(number))
    if found is not None:
        return found
    if about.get("allow_sending_without_reply") or given.flag("allow_sending_without_reply"):
        return None
    raise bad_request("message to be replied not found")


def stored(world: World, given: Parameters, kind: str) -> File:
    """The file of a message: uploaded now, or known by its id."""
    found = given.upload(kind)
    if isinstance(found, str):
        if found not in world.files:
            text = "wrong remote file identifier specified" if "://" not in found else "failed to get HTTP URL content"
            raise bad_request(text)
        return world.files[found]
    check_size(found, kind)
    return world.store(found.name, found.content, found.content_type)


def check_size(found: Upload, kind: str) -> None:
    """Refuse a file that is empty or too big."""
    if not found.content:
        raise bad_request("file must be non-empty")
    if len(found.content) > (MAX_PHOTO if kind == "photo" else MAX_UPLOAD):
        raise bad_request("file is too big")


def rich(given: Parameters) -> tuple[str, Json]:
    """A rich message's source, and what is told of it: each paragraph is kept as one block, marks and all."""
    message = given.object("rich_message") or {}
    sources = [name for name in ("html", "markdown", "blocks") if message.get(name)]
    if len(sources) != 1:
        raise bad_request("exactly one of html, markdown and blocks must be given")
    if sources[0] == "blocks":
        blocks = list(message["blocks"])
        text = "\n\n".join(str(block.get("text", "")) for block in blocks)
    else:
        text = str(message[sources[0]])
        blocks = [{"type": "paragraph", "text": part} for part in text.split("\n\n") if part.strip()]
    if len(text) > MAX_RICH or len(blocks) > MAX_BLOCKS:
        raise bad_request("rich message is too long")
    return text, {"blocks": blocks} | ({"is_rtl": True} if message.get("is_rtl") else {})


def check_person_edit(message: Message, text: str, now: float) -> None:
    """ValueError for an edit that no client offers: of what was forwarded, of what is too old, to nothing, to too much.

    An edit that changes nothing is one that Telegram tells of all the same: of a link's preview, of what bots do not
    see (Bot API, `Update.edited_message`).
    """
    most = MAX_TEXT if message.file is None else MAX_CAPTION
    if message.sender.is_bot or message.kind == SERVICE or message.origin is not None:
        raise ValueError("only messages that a person wrote can be edited, and not what they forwarded")
    if message.deleted or now - message.at > EDIT_SECONDS:
        raise ValueError("messages can be edited for 48 hours, unless they are gone before")
    if utf16_length(text) > most or not (text or message.file):
        raise ValueError(f"a message has 1 to {most} UTF-16 units, not {utf16_length(text)}")


def check_private(chat: Chat) -> None:
    """Refuse drafts outside private chats."""
    if chat.kind != PRIVATE:
        raise bad_request("TEXTDRAFT_PEER_INVALID")
