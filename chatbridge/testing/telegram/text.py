"""Text as Telegram counts and keeps it: UTF-16 units, entities, trimming. Knows no parse mode."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any

from chatbridge.testing.telegram.state import Json

MAX_TEXT, MAX_CAPTION = 4096, 1024
_CODE = frozenset({"code", "pre"})
_STYLES = frozenset({"bold", "italic", "underline", "strikethrough", "spoiler"})
_FOUND = (
    ("bot_command", re.compile(r"(?<![\w/@])/[A-Za-z0-9_]{1,64}(?:@[A-Za-z0-9_]{3,32})?(?!\w)")),
    ("mention", re.compile(r"(?<!\w)@[A-Za-z0-9_]{3,32}(?!\w)")),
    ("url", re.compile(r"(?:https?|tg)://[^\s<>\"]*[^\s<>\".,;:!?)\]]")),
    ("hashtag", re.compile(r"(?<!\w)#[^\W\d]\w*")),
)


def utf16_length(text: str) -> int:
    """The length of a text in UTF-16 units."""
    return len(text.encode("utf-16-le")) // 2


def clean(text: str, entities: list[Json]) -> tuple[str, list[Json]]:
    """A text without blanks at its ends, as it is sent, and its entities: moved, cut, sorted, and those found in it."""
    text = "".join(char for char in text if char in "\n\t\r" or ord(char) >= 32)
    text, entities = _without_returns(text, entities)
    stripped = text.lstrip()
    shift = utf16_length(text) - utf16_length(stripped)
    stripped = stripped.rstrip()
    kept = []
    for entity in entities:
        start = max(entity["offset"] - shift, 0)
        end = min(entity["offset"] + entity["length"] - shift, utf16_length(stripped))
        if end > start:
            kept.append({**entity, "offset": start, "length": end - start})
    kept = _apart_from_code(kept)
    kept += _found(stripped, kept)
    return stripped, sorted(kept, key=lambda entity: (entity["offset"], -entity["length"]))


def _without_returns(text: str, entities: list[Json]) -> tuple[str, list[Json]]:
    if "\r" not in text:
        return text, entities
    lost = list(accumulate((char == "\r" for char in text for _ in range(utf16_length(char))), initial=0))
    moved = [
        {**entity, "offset": start - lost[start], "length": end - lost[end] - (start - lost[start])}
        for entity in entities
        for start, end in [(entity["offset"], entity["offset"] + entity["length"])]
    ]
    return text.replace("\r", ""), moved


def _apart_from_code(entities: list[Json]) -> list[Json]:
    """Code is in nothing but links and quotes, and holds nothing: styles around it are cut, marks inside it dropped."""
    codes = [(one["offset"], one["offset"] + one["length"]) for one in entities if one["type"] in _CODE]
    codes = [one for one in codes if not any(o[0] <= one[0] and one[1] <= o[1] and o != one for o in codes)]
    apart: list[Json] = []
    for entity in entities:
        start, end = entity["offset"], entity["offset"] + entity["length"]
        if entity["type"] in _CODE:
            apart += [entity] * ((start, end) in codes)
            continue
        if entity["type"] not in _STYLES:
            apart += [entity] * (not any(first <= start and end <= last for first, last in codes))
            continue
        for first, last in sorted(codes):
            if last <= start or first >= end:
                continue
            if first > start:
                apart.append({**entity, "offset": start, "length": first - start})
            start = max(start, last)
        if end > start:
            apart.append({**entity, "offset": start, "length": end - start})
    return apart


def _found(text: str, entities: list[Json]) -> list[Json]:
    taken = [(one["offset"], one["offset"] + one["length"]) for one in entities if one["type"] in {*_CODE, "text_link"}]
    found: list[Json] = []
    for kind, pattern in _FOUND:
        for match in pattern.finditer(text):
            start = utf16_length(text[: match.start()])
            end = start + utf16_length(match[0])
            if all(end <= first or start >= last for first, last in taken):
                found.append({"type": kind, "offset": start, "length": end - start})
                taken.append((start, end))
    return found


def checked_entities(given: Any, text: str) -> list[Json]:
    """Entities that a bot gives itself; ValueError where one begins or ends inside a character, or outside."""
    bounds = set(accumulate(map(utf16_length, text), initial=0))
    for entity in given:
        start, length = int(entity["offset"]), int(entity["length"])
        if start not in bounds or start + length not in bounds:
            raise ValueError(f"entity begins or ends in a middle of a UTF-16 symbol at offset {start}")
    return [dict(entity) for entity in given]
