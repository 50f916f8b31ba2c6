"""The files that come with messages: text is read, within limits; of all else the name is told. Sends nothing."""

from __future__ import annotations

import logging
import mimetypes
from dataclasses import dataclass

import telegram
from telegram.error import TelegramError

from chatbridge import Attachment

log = logging.getLogger(__name__)

_TEXT = frozenset({"json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-sh", "x-python", "sql", "x-tex", "csv"})


@dataclass(frozen=True, slots=True)
class Files:
    """What came along with a message. `unread`: keys of the words that say why something was not read."""

    attachments: tuple[Attachment, ...] = ()
    unread: tuple[str, ...] = ()


async def files_of(message: telegram.Message, most: int) -> Files:
    """Fetch what is text and has `most` bytes at most; of the rest take the name."""
    if (document := message.document) is not None:
        name = document.file_name or "file"
        kind = document.mime_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        if not is_text(kind, name):
            picture = kind.startswith("image/")
            return Files((Attachment(name, kind, b""),), ("picture_unread" if picture else "file_unread",))
        if (document.file_size or 0) > most:
            return Files((Attachment(name, "application/octet-stream", b""),), ("file_too_big",))
        try:
            data = bytes(await (await document.get_file()).download_as_bytearray())
        except TelegramError as error:
            log.warning("a file could not be fetched: %s", error)
            return Files((Attachment(name, "application/octet-stream", b""),), ("file_lost",))
        if (text := _decoded(data)) is None:
            return Files((Attachment(name, "application/octet-stream", b""),), ("file_unread",))
        return Files((Attachment(name, "text/plain" if not kind.startswith("text/") else kind, text.encode()),))
    if message.photo:
        return Files((Attachment("photo.jpg", "image/jpeg", b""),), ("picture_unread",))
    if (sound := message.voice or message.audio) is not None:
        name = getattr(sound, "file_name", None) or "voice.ogg"
        return Files((Attachment(name, sound.mime_type or "audio/ogg", b""),), ("sound_unread",))
    if message.video or message.video_note:
        return Files((Attachment("video.mp4", "video/mp4", b""),), ("file_unread",))
    return Files()


def is_text(media_type: str, name: str) -> bool:
    """Whether a file can be read as text, by its type or its name."""
    if media_type.startswith("text/") or media_type.partition("/")[2] in _TEXT:
        return True
    guessed = mimetypes.guess_type(name)[0] or ""
    return media_type == "application/octet-stream" and (guessed.startswith("text/") or _ends_like_text(name))


def _ends_like_text(name: str) -> bool:
    return name.lower().endswith((".md", ".log", ".ini", ".cfg", ".toml", ".yaml", ".yml", ".rst", ".tex", ".diff"))


def _decoded(data: bytes) -> str | None:
    """The text of a file: UTF-8, or the encoding of older Chinese programs; None for what is no text."""
    if b"\0" in data:
        return None
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None
