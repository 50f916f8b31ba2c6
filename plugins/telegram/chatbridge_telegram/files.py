"""The files that come with Telegram's messages, before they are fetched, and how they are. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Self, TypeAlias

import httpx
import telegram
from telegram.error import TelegramError

from chatbridge import RemoteFile

CHUNK = 65536
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
    return RemoteFile(name, media_type, held.file_size or 0, held.file_id)


class Files:
    """Fetches files by their ids. Use it as an async context manager."""

    def __init__(self, client: telegram.Bot, proxy: str | None = None) -> None:
        self._client = client
        # The library would take in all of a file, however long it is.
        self._http = httpx.AsyncClient(proxy=proxy, timeout=20, headers={"Accept-Encoding": "identity"})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._http.aclose()

    async def fetch(self, source: str, max_bytes: int) -> bytes | None:
        """The content of a file, no further than a little behind `max_bytes`; None where it can't be had."""
        data = bytearray()
        try:
            file = await self._client.get_file(source)
            async with self._http.stream("GET", file.file_path or "") as answer:
                answer.raise_for_status()
                async for piece in answer.aiter_raw(CHUNK):
                    data += piece
                    if len(data) > max_bytes:
                        break
        except (TelegramError, httpx.HTTPError, httpx.InvalidURL) as error:  # an address would show the token
            log.warning("a file could not be fetched: %s", type(error).__name__)
            return None
        return bytes(data)
