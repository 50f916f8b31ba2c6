"""Text that is ready to be split: what a chat service will show, where it may be cut, how it counts. Knows no Markdown.

Positions are indices of a Python string (code points).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

TICKS = "```"
RULE = "──────────"
HEADING_HOLD = 3
"""Characters behind a heading before which a message had better not end: its last line should be no heading."""
BOXES = {"todo": "☐ ", "done": "☑ "}
"""What stands before the items of a task list."""
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
class Gap:
    """`text[start:end]` only stands between two blocks: a cut at its end is a good one, and leaves it out."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A whole answer as its readers see it, still in one piece."""

    text: str
    spans: tuple[Span, ...] = ()
    holds: tuple[Hold, ...] = ()
    gaps: tuple[Gap, ...] = ()


class RenderedWriter:
    """A `Rendered` that is being written, from its first character to its last."""

    def __init__(self) -> None:
        self.length = 0
        self.last = ""
        """The last character, "" where there is none."""
        self.spans: list[Span] = []
        self.holds: list[Hold] = []
        self.gaps: list[Gap] = []
        self._pieces: list[str] = []

    def write(self, text: str) -> int:
        """Append, and say where it begins."""
        start = self.length
        if text:
            self._pieces.append(text)
            self.length += len(text)
            self.last = text[-1]
        return start

    def rendered(self) -> Rendered:
        """What was written, without blanks at its end."""
        text = "".join(self._pieces).rstrip()
        spans = (replace(span, end=min(span.end, len(text))) for span in self.spans if span.start < len(text))
        return Rendered(text, tuple(spans), tuple(self.holds), tuple(self.gaps))


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
