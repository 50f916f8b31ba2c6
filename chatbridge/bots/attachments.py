"""The files that come with messages: what of them is fetched, and what a model reads of it. Knows no service, no model.

Text is read, within limits; of any other file the model learns the name alone.
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from chatbridge.bots.triggers import is_addressed
from chatbridge.operations.printable import in_one_line
from chatbridge.texts import pick_language, say
from chatbridge.types import Attachment, Message

log = logging.getLogger(__name__)

BINARY = "application/octet-stream"
"""The media type of what nobody has a better one for; also of a file that is text but could not be had."""

_TEXT = frozenset({"json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-sh", "x-python", "sql", "x-tex", "csv"})
_ENDINGS = (".md", ".log", ".ini", ".cfg", ".toml", ".yaml", ".yml", ".rst", ".tex", ".diff")


MAX_FILES = 10
"""Files of one message that are read; Discord takes no more with a message, and Telegram one."""
MAX_NAME = 256
"""Characters of a name, be it a person's, a channel's or a file's; a longer one ends in "…". Discord and Telegram let
nobody have a longer one."""
_SURELY_SHORT = 256
"""Characters that no `max_text` is too small for."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that came with a message and still is with the chat service.

    `media_type` and `size` (in bytes) as the service tells them, "" and 0 where it does not. `source`: where its
    content is, in the service's own words, by which `Downloads.fetch` finds it, after a restart of the program as well.
    """

    name: str
    media_type: str
    size: int
    source: str

    @property
    def kind(self) -> str:
        """Its media type, guessed from its name where the service tells none."""
        return (self.media_type or mimetypes.guess_type(self.name)[0] or BINARY).partition(";")[0].strip()

    @property
    def unread(self) -> Attachment:
        """What stands for it as long as it was not fetched."""
        return Attachment(self.name, self.kind, b"")


class Downloads:
    """How the files of one chat service are fetched: a few at a time, each within a time and a size.

    service: its name, for people. fetch(source, max_bytes): gives a file's content, or None where it can't be had; it
    may stop as soon as more than `max_bytes` have come. max_kib: larger files are not read. seconds: for one message's
    files together. at_once: how many files are fetched at a time.
    """

    def __init__(
        self,
        service: str,
        fetch: Callable[[str, int], Awaitable[bytes | None]],
        *,
        max_kib: int = 256,
        seconds: float = 30.0,
        at_once: int = 16,
    ) -> None:
        self.service = service
        self.max_kib = max_kib
        self._fetch = fetch
        self._seconds = seconds
        self._places = asyncio.Semaphore(at_once)

    def announced(self, files: Sequence[RemoteFile]) -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
        """What stands for the files until they are fetched. The second value has the keys of the texts that say why
        something will not be read, each once."""
        found = [self._announced(file, at) for at, file in enumerate(files)]
        return tuple(file for file, _ in found), tuple(dict.fromkeys(why for _, why in found if why))

    def _announced(self, file: RemoteFile, at: int) -> tuple[Attachment, str]:
        kind = file.kind
        if not is_text(file.name, kind):
            why = {"image": "picture_unread", "audio": "sound_unread"}.get(kind.partition("/")[0], "file_unread")
            return file.unread, why
        if at >= MAX_FILES:
            return Attachment(file.name, BINARY, b""), "too_many_files"
        if file.size > self.max_kib * 1024:
            return Attachment(file.name, BINARY, b""), "file_too_big"
        return Attachment(file.name, kind, b"", source=file.source), ""

    async def fetched(self, files: Sequence[Attachment]) -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
        """The files with their contents, and why some are not read, as `announced` gives it."""
        found = [(file, "") for file in files]
        try:
            async with asyncio.timeout(self._seconds):
                for at, file in enumerate(files):
                    if file.source:
                        found[at] = Attachment(file.name, BINARY, b""), "file_lost"
                        found[at] = await self._fetched(file)
        except TimeoutError:
            log.warning("%s: files are not read, since they did not come within %g s", self.service, self._seconds)
            found = [
                (Attachment(one.name, BINARY, b""), "file_lost") if one.source else (one, why) for one, why in found
            ]
        return tuple(file for file, _ in found), tuple(dict.fromkeys(why for _, why in found if why))

    async def _fetched(self, file: Attachment) -> tuple[Attachment, str]:
        binary = Attachment(file.name, BINARY, b"")
        async with self._places:
            data = await self._fetch(file.source, self.max_kib * 1024)
        if data is None:
            return binary, "file_lost"
        if len(data) > self.max_kib * 1024:
            return binary, "file_too_big"
        if (text := text_of(data)) is None:
            return binary, "file_unread"
        kind = file.media_type
        return Attachment(file.name, kind if kind.startswith("text/") else "text/plain", text.encode()), ""


def with_files(
    message: Message, files: tuple[Attachment, ...], unread: Sequence[str], downloads: Downloads, language: str
) -> Message | None:
    """The message with these files. `unread`: keys of the texts that say why some can't be read.

    Where it has nothing that can be read, the person learns why, in `language` (a setting), if it was meant for the
    bot; else there is nothing to be answered, which is None.
    """
    if message.text or not unread or any(file.data or file.source for file in files):
        return replace(message, attachments=files)
    if message.author.is_bot or not is_addressed(message):
        return None
    told = pick_language(language, message.language, "")
    limits = {"file_too_big": downloads.max_kib, "too_many_files": MAX_FILES}
    why = "\n".join(say(told, key, service=downloads.service, limit=limits.get(key)) for key in unread)
    return replace(message, attachments=(), unreadable=why)


def is_short(message: Message) -> bool:
    """Whether nothing of the message can be too long, whatever `max_text` is."""
    names = [message.author.name, message.channel.name, *(file.name for file in message.attachments)]
    size = len(message.text) + len(message.quoted) + sum(len(file.data) for file in message.attachments)
    return size <= _SURELY_SHORT and all(len(name) <= MAX_NAME for name in names)


def bounded(message: Message, max_text: int, language: str) -> Message:
    """The message with at most `max_text` KiB to read; one whose own words are more says why it is not answered."""
    message = within(message, max_text)
    if (size := len(message.text.encode("utf-8", "replace"))) <= max_text * 1024:
        return message
    told = pick_language(language, message.language, message.text[:1000])
    why = say(told, "text_too_long", size=kib(size), limit=max_text)
    return replace(message, text=message.text[:_SURELY_SHORT], attachments=(), quoted="", unreadable=why)


def within(message: Message, max_kib: int) -> Message:
    """The message with no more to read than `max_kib`: of files, and of what it quotes, the beginnings.

    Its own words are left as they are: where they alone are more, it is to be refused. Names end after `MAX_NAME`
    characters.
    """
    room = max_kib * 1024 - len(message.text.encode("utf-8", "replace"))
    quoted, size = _beginning(message.quoted.encode("utf-8", "replace"), max(0, room))
    room -= len(quoted)
    text = quoted.decode()
    files = []
    for file in message.attachments:
        data, _ = _beginning(file.data, max(0, room)) if _says_text(file.media_type) else (file.data, 0)
        room -= len(data)
        whole = file.size or (len(file.data) if len(data) < len(file.data) else 0)
        files.append(replace(file, name=_short(file.name), data=data, size=whole))
    author, channel = message.author, message.channel
    return replace(
        message,
        quoted=f"{text} […]" if len(quoted) < size else text,
        attachments=tuple(files),
        author=replace(author, name=_short(author.name)),
        channel=replace(channel, name=_short(channel.name)),
    )


def _beginning(data: bytes, room: int) -> tuple[bytes, int]:
    """As much of a text as there is room for, in whole characters, and how long all of it is."""
    if len(data) <= room:
        return data, len(data)
    return data[:room].decode("utf-8", "ignore").encode(), len(data)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def kib(size: int) -> int:
    """A size in KiB, rounded up."""
    return -(-size // 1024)


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
        part = f", the first {kib(len(file.data))} of {kib(file.size)} KiB" if file.size else ""
        parts.append(f"[{file.name}, {file.media_type}]" if content is None else f"[{file.name}{part}]\n{content}")
    return "\n\n".join(part for part in parts if part)


def unread_of(message: Message, language: str) -> list[str]:
    """What a person is told about the files of a message: which are not read, and which in part."""
    told = []
    shown = [(file, in_one_line(file.name, MAX_NAME)) for file in message.attachments]
    if names := ", ".join(name for file, name in shown if content_of(file) is None):
        told.append(say(language, "unreadable", names=names))
    if partly := [
        say(language, "first_of", name=name, read=kib(len(file.data)), size=kib(file.size))
        for file, name in shown
        if file.size
    ]:
        told.append(say(language, "partly_read", names=", ".join(partly)))
    return told


def content_of(file: Attachment) -> str | None:
    """What a text file says; None for any other file."""
    try:
        return file.data.decode() if _says_text(file.media_type) else None
    except UnicodeDecodeError:
        return None


def _says_text(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind.endswith(("json", "xml", "yaml", "javascript", "toml"))
