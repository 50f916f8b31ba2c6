"""What a message holds as JSON, and back: how the outbox keeps it. `chatbridge queue` reads "text" from it."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from chatbridge.delivery.chat import Button, Entity, MessageContent
from chatbridge.types import Attachment

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def to_json(content: MessageContent) -> str:
    """The content as JSON; whether it is a preview is left out, since no preview goes through the outbox."""
    file = content.file and [content.file.name, content.file.media_type, content.file.data.decode("latin-1")]
    fields = {
        "text": content.text,
        "entities": [[entity.kind, entity.offset, entity.length, entity.data] for entity in content.entities],
        "plain": content.plain,
        "file": file,
        "last": content.ends_answer,
        "buttons": [[button.action, button.label] for button in content.buttons],
    }
    return json.dumps(fields, ensure_ascii=False)


def from_json(text: str) -> MessageContent:
    """The content that `to_json` was given."""
    fields = json.loads(text)
    file = fields["file"] and Attachment(fields["file"][0], fields["file"][1], fields["file"][2].encode("latin-1"))
    entities = tuple(Entity(*entity) for entity in fields["entities"])
    buttons = tuple(Button(*button) for button in fields["buttons"])
    return MessageContent(fields["text"], entities, fields["plain"], file, ends_answer=fields["last"], buttons=buttons)


def check_json(text: str) -> None:
    """Look whether `from_json` can read a text; "" is none. Raises: ValueError, TypeError, KeyError or the like."""
    if text:
        _adapter().validate_python(asdict(from_json(text)))


@cache
def _adapter() -> TypeAdapter[MessageContent]:
    from pydantic import TypeAdapter

    return TypeAdapter(MessageContent)
