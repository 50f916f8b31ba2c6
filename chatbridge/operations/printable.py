"""Makes text safe to print: whoever wrote it must not steer the terminal, nor seem to say what they did not.

Knows what terminals obey: control characters (C0, DEL, C1; ESC begins most commands, CR and BS write over what is
there), and what turns text around. Knows no terminal and no colour.
"""

from __future__ import annotations

import json

_KEPT = "\n\t"
_TURNS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Embeddings, overrides and isolates of the Unicode bidirectional algorithm, which show text in another order."""
_BREAKS = (0x2028, 0x2029)
"""Line and paragraph separators: some programs begin a new line there."""

_STEERING = [code for code in (*range(0x20), *range(0x7F, 0xA0), *_TURNS, *_BREAKS) if chr(code) not in _KEPT]
_LEFT_OUT: dict[int, str | None] = {**dict.fromkeys(_STEERING, None), **dict.fromkeys(_BREAKS, "\n")}
_ESCAPED: dict[int, str | None] = {code: chr(code).encode("unicode_escape").decode() for code in _STEERING}
_IN_JSON = {code: f"\\u{code:04x}" for code in _STEERING if code >= 0x20}  # below that, JSON itself writes them out
_LONE_HALVES = {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}
_ESCAPED |= _LONE_HALVES
_IN_JSON |= _LONE_HALVES  # a file's name may hold bytes that are no text


def printable(text: str) -> str:
    """The text without what could steer a terminal; line ends and tabs stay."""
    return text.translate(_LEFT_OUT)


def escaped(text: str) -> str:
    """The text with what could steer a terminal written out, as `\\x1b`; line ends and tabs stay."""
    return text.translate(_ESCAPED)


def as_json(value: object, indent: int | None = None) -> str:
    """A value as JSON that is safe to print and reads back as it was; letters of all languages stay."""
    return json.dumps(value, ensure_ascii=False, indent=indent).translate(_IN_JSON)


def in_one_line(text: str, limit: int | None = None) -> str:
    """The text with each row of blanks and line ends as one blank, escaped, and cut where it is longer than `limit`."""
    line = " ".join(escaped(text).split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"
