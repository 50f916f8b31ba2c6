"""The files that come with messages: what of them is fetched, and what a model reads of it. Knows no service, no model.

Text is read, within a limit; of any other file the model learns the name alone.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from chatbridge.types import Attachment, Message

BINARY = "application/octet-stream"
"""The media type of what nobody has a better one for; also of a file that is text but could not be had."""

_TEXT = frozenset({"json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-sh", "x-python", "sql", "x-tex", "csv"})
_ENDINGS = (".md", ".log", ".ini", ".cfg", ".toml", ".yaml", ".yml", ".rst", ".tex", ".diff")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that came with a message and still is with the chat service.

    `media_type` and `size` (in bytes) as the service tells them, "" and 0 where it does not. `fetch` gives the content,
    or None where it can't be had; it is called only for what is going to be read.
    """

    name: str
    media_type: str
    size: int
    fetch: Callable[[], Awaitable[bytes | None]]

    @property
    def kind(self) -> str:
        """Its media type, guessed from its name where the service tells none."""
        return (self.media_type or mimetypes.guess_type(self.name)[0] or BINARY).partition(";")[0].strip()

    @property
    def unread(self) -> Attachment:
        """What stands for it as long as it was not fetched."""
        return Attachment(self.name, self.kind, b"")


async def fetch_files(files: Sequence[RemoteFile], max_bytes: int) -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
    """Fetch what is text and has `max_bytes` at most. The second value has the keys of the texts that say why
    something was not read, each once."""
    found = [await _fetch(file, max_bytes) for file in files]
    return tuple(file for file, _ in found), tuple(dict.fromkeys(why for _, why in found if why))


async def _fetch(file: RemoteFile, max_bytes: int) -> tuple[Attachment, str]:
    kind, binary = file.kind, Attachment(file.name, BINARY, b"")
    if not is_text(file.name, kind):
        why = {"image": "picture_unread", "audio": "sound_unread"}.get(kind.partition("/")[0], "file_unread")
        return file.unread, why
    if file.size > max_bytes:
        return binary, "file_too_big"
    if (data := await file.fetch()) is None:
        return binary, "file_lost"
    if (text := text_of(data)) is None:
        return binary, "file_unread"
    return Attachment(file.name, kind if kind.startswith("text/") else "text/plain", text.encode()), ""


def is_text(name: str, media_type: str) -> bool:
    """Whether a file can be read as text, by its type or else its name."""
    if media_type.startswith("text/") or media_type.partition("/")[2] in _TEXT:
        return True
    guessed = mimetypes.guess_type(name)[0] or ""
    return media_type == BINARY and (guessed.startswith("text/") or name.lower().endswith(_ENDINGS))


def text_of(data: bytes) -> str | None:
    """The text in a file: UTF-8, or the encoding of older Chinese programs; None for what is no text."""
    if b"\0" in data:
        return None
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def with_attachments(message: Message) -> str:
    """The message's text, with attached text files behind it; of other files the model learns the name alone."""
    quoted = "\n".join(f"> {line}" for line in message.quoted.splitlines())
    parts = [quoted, message.text]
    for file in message.attachments:
        content = content_of(file)
        parts.append(f"[{file.name}, {file.media_type}]" if content is None else f"[{file.name}]\n{content}")
    return "\n\n".join(part for part in parts if part)


def content_of(file: Attachment) -> str | None:
    """What a text file says; None for any other file."""
    try:
        return file.data.decode() if _says_text(file.media_type) else None
    except UnicodeDecodeError:
        return None


def _says_text(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind.endswith(("json", "xml", "yaml", "javascript", "toml"))
