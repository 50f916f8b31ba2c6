"""Text as Telegram counts and keeps it: UTF-16 units, entities, trimming. Knows no parse mode."""

from __future__ import annotations

import re
from typing import Any

from chatbridge.testing.telegram.state import Json

MAX_TEXT, MAX_CAPTION = 4096, 1024
_CODE = frozenset({"code", "pre"})
_FOUND = (
    ("bot_command", re.compile(r"(?<![\w/@])/[A-Za-z0-9_]{1,64}(?:@[A-Za-z0-9_]{3,32})?(?!\w)")),
    ("mention", re.compile(r"(?<!\w)@[A-Za-z0-9_]{3,32}(?!\w)")),
    ("url", re.compile(r"https?://[^\s<>\"]*[^\s<>\".,;:!?)\]]")),
    ("hashtag", re.compile(r"(?<!\w)#[^\W\d]\w*")),
)


def units(text: str) -> int:
    """The length of a text in UTF-16 units."""
    return len(text.encode("utf-16-le")) // 2


def clean(text: str, entities: list[Json]) -> tuple[str, list[Json]]:
    """A text without blanks at its ends, as it is sent, and its entities: moved, cut, sorted, and those found in it."""
    text = "".join(char for char in text.replace("\r", "") if char in "\n\t" or ord(char) >= 32)
    stripped = text.lstrip()
    shift = units(text) - units(stripped)
    stripped = stripped.rstrip()
    kept = []
    for entity in entities:
        start = max(entity["offset"] - shift, 0)
        end = min(entity["offset"] + entity["length"] - shift, units(stripped))
        if end > start:
            kept.append({**entity, "offset": start, "length": end - start})
    kept += _found(stripped, kept)
    return stripped, sorted(kept, key=lambda entity: (entity["offset"], -entity["length"]))


def _found(text: str, entities: list[Json]) -> list[Json]:
    taken = [(one["offset"], one["offset"] + one["length"]) for one in entities if one["type"] in {*_CODE, "text_link"}]
    found: list[Json] = []
    for kind, pattern in _FOUND:
        for match in pattern.finditer(text):
            start = units(text[: match.start()])
            end = start + units(match[0])
            if all(end <= first or start >= last for first, last in taken):
                found.append({"type": kind, "offset": start, "length": end - start})
                taken.append((start, end))
    return found


def checked_entities(given: Any, text: str) -> list[Json]:
    """Entities that a bot gives itself; ValueError where one begins or ends inside a character, or outside."""
    bounds = {0}
    for char in text:
        bounds.add(max(bounds) + units(char))
    for entity in given:
        start, length = int(entity["offset"]), int(entity["length"])
        if start not in bounds or start + length not in bounds:
            raise ValueError(f"entity begins or ends in a middle of a UTF-16 symbol at offset {start}")
    return [dict(entity) for entity in given]
