"""The files that come with Telegram's messages, as chatbridge knows them before they are fetched. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import telegram
from telegram.error import TelegramError

from chatbridge import RemoteFile

log = logging.getLogger(__name__)

Held: TypeAlias = (
    telegram.Document | telegram.PhotoSize | telegram.Voice | telegram.Audio | telegram.Video | telegram.VideoNote
)


def files_of(message: telegram.Message) -> Sequence[RemoteFile]:
    """The file that came along, if one did: Telegram sends one with a message."""
    if (document := message.document) is not None:
        return [_file(document, document.file_name or "file", document.mime_type or "")]
    if message.photo:
        return [_file(message.photo[-1], "photo.jpg", "image/jpeg")]
    if (sound := message.voice or message.audio) is not None:
        return [_file(sound, getattr(sound, "file_name", None) or "voice.ogg", sound.mime_type or "audio/ogg")]
    if (video := message.video or message.video_note) is not None:
        return [_file(video, "video.mp4", "video/mp4")]
    return []


def _file(held: Held, name: str, media_type: str) -> RemoteFile:
    return RemoteFile(name, media_type, held.file_size or 0, partial(_fetch, held))


async def _fetch(held: Held) -> bytes | None:
    try:
        return bytes(await (await held.get_file()).download_as_bytearray())
    except TelegramError as error:
        log.warning("a file could not be fetched: %s", error)
        return None
