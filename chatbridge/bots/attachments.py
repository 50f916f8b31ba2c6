"""What a model reads of the files that come with a message. Knows no chat service and no model."""

from __future__ import annotations

from chatbridge.types import Attachment, Message


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
        return file.data.decode() if _is_text(file.media_type) else None
    except UnicodeDecodeError:
        return None


def _is_text(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind.endswith(("json", "xml", "yaml", "javascript", "toml"))
