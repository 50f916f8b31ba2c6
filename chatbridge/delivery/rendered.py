"""Text that is ready to be split: what a chat service will show, where it may be cut, how it counts. Knows no Markdown.

Positions are indices of a Python string (code points).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TICKS = "```"
ZERO_WIDTH = "\u200b"


@dataclass(frozen=True, slots=True)
class Span:
    """`text[start:end]` has a format of its own, such as "bold", "pre" or "text_link".

    `data` is the language or the address. Where the markup is part of the text, `before` reopens the format at the
    head of a message that begins inside the span, and `after` closes it at the end of one that ends inside. Where
    both are empty, the service takes formats as a list beside the text.
    """

    start: int
    end: int
    kind: str
    data: str = ""
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """No cut strictly between `start` and `end`: if `hard` never (it is markup), else only where nothing else helps."""

    start: int
    end: int
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Rendered:
    """A whole answer as its readers see it, still in one piece."""

    text: str
    spans: tuple[Span, ...] = ()
    holds: tuple[Hold, ...] = ()


def as_text(source: str) -> Rendered:
    """For services without any formatting: the source as it is."""
    return Rendered(source.replace("\r\n", "\n").replace("\r", "\n").strip())


def code_language(info: str) -> str:
    """The language that a fence names, if it is one that services take; what follows the first word is dropped."""
    match = re.match(r"[A-Za-z][\w+#.-]{0,19}(?!\S)", info.strip())
    return match[0] if match else ""


def utf16_length(text: str) -> int:
    """How Telegram counts: UTF-16 code units, so that an emoji counts two or more."""
    return len(text) + sum(char > "\uffff" for char in text)
