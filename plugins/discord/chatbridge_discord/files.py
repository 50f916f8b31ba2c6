"""The files that come with messages: text is read, within limits; of all else the name is told. Sends nothing."""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import discord

from chatbridge import Attachment

log = logging.getLogger(__name__)

UNREAD = "application/octet-stream"
_TEXT = frozenset({"json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-sh", "x-python", "sql", "x-tex", "csv"})
_ENDINGS = (".md", ".log", ".ini", ".cfg", ".toml", ".yaml", ".yml", ".rst", ".tex", ".diff")


@dataclass(frozen=True, slots=True)
class Files:
    """What came along with a message. `unread`: keys of the words that say why something was not read."""

    attachments: tuple[Attachment, ...] = ()
    unread: tuple[str, ...] = ()


async def files_of(given: Sequence[discord.Attachment], most: int) -> Files:
    """Fetch what is text and has `most` bytes at most; of the rest take the name."""
    found = [await _file(one, most) for one in given]
    return Files(tuple(file for file, _ in found), tuple(dict.fromkeys(why for _, why in found if why)))


async def _file(given: discord.Attachment, most: int) -> tuple[Attachment, str]:
    name = given.filename
    kind = (given.content_type or mimetypes.guess_type(name)[0] or UNREAD).partition(";")[0].strip()
    if not is_text(kind, name):
        why = {"image": "picture_unread", "audio": "sound_unread"}.get(kind.partition("/")[0], "file_unread")
        return Attachment(name, kind, b""), why
    if given.size > most:
        return Attachment(name, UNREAD, b""), "file_too_big"
    try:
        data = await given.read()
    except (discord.HTTPException, aiohttp.ClientError, OSError, TimeoutError) as error:
        log.warning("a file could not be fetched: %s", error)
        return Attachment(name, UNREAD, b""), "file_lost"
    if (text := _decoded(data)) is None:
        return Attachment(name, UNREAD, b""), "file_unread"
    return Attachment(name, kind if kind.startswith("text/") else "text/plain", text.encode()), ""


def is_text(media_type: str, name: str) -> bool:
    """Whether a file can be read as text, by its type or its name."""
    if media_type.startswith("text/") or media_type.partition("/")[2] in _TEXT:
        return True
    guessed = mimetypes.guess_type(name)[0] or ""
    return media_type == UNREAD and (guessed.startswith("text/") or name.lower().endswith(_ENDINGS))


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
