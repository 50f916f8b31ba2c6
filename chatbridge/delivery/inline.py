"""Finds in one line what Discord formats: code, marked words, links. Knows no blocks, writes nothing.

In linear time, whatever the line is. One regular expression for it all would look for the end of each opening mark up
to the end of the line, and a line of nothing but opening marks would take the square of its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal


@dataclass(frozen=True, slots=True)
class Format:
    """`line[start:end]` is formatted: `words` between two times `mark`, or a whole link, which has no mark.

    The "!" before a picture counts as its link's, but is not among the words: it is shown as a link.
    """

    kind: Literal["code", "marked", "link"]
    start: int
    end: int
    mark: str
    words: str


_OPENING = re.compile(
    r"(?<![`\\])(?P<tick>```|``|`)(?!`)"
    r"|(?<![*_~|\\])(?P<mark>\*\*\*|\*\*|__|~~|\|\|)(?=[^\s*_~|])"
    r"|!?(?P<link>\[)"
)


@cache
def _closing(mark: str) -> re.Pattern[str]:
    if mark.startswith("`"):
        return re.compile(rf"(?<!`){mark}(?!`)")
    return re.compile(rf"(?<=[^\s*_~|\\]){re.escape(mark)}")


_END_OF_NAME = re.compile(r"\]")
_END_OF_ADDRESS = re.compile(r"[)\s]")


def formats(line: str) -> Iterator[Format]:
    """What is formatted in a line, from left to right; nothing lies within something else."""
    ends = _Ends(line)
    at = 0
    while (opening := _OPENING.search(line, at)) is not None:
        found = _link(line, ends, opening) if opening["link"] else _marked(line, ends, opening)
        if found is not None:
            yield found
        at = opening.start() + 1 if found is None else found.end


class _Ends:
    """The next match of a pattern in a line. To be asked with positions that do not fall: then each stretch of the line
    is searched once for each pattern."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._next: dict[re.Pattern[str], int | None] = {}

    def next(self, pattern: re.Pattern[str], at: int) -> int | None:
        """Where the first match from `at` on begins."""
        known = self._next.get(pattern, -1)
        if known is not None and known < at:
            match = pattern.search(self._line, at)
            known = self._next[pattern] = None if match is None else match.start()
        return known


def _marked(line: str, ends: _Ends, opening: re.Match[str]) -> Format | None:
    mark = opening["tick"] or opening["mark"]
    first = opening.end()
    closing = ends.next(_closing(mark), first + 1)
    if closing is None:
        return None
    kind: Literal["code", "marked"] = "code" if opening["tick"] else "marked"
    return Format(kind, opening.start(), closing + len(mark), mark, line[first:closing])


def _link(line: str, ends: _Ends, opening: re.Match[str]) -> Format | None:
    name_end = ends.next(_END_OF_NAME, opening.end())
    if name_end is None or not line.startswith("(", name_end + 1):
        return None
    end = ends.next(_END_OF_ADDRESS, name_end + 2)
    if end is None or line[end] != ")" or end == name_end + 2:
        return None
    return Format("link", opening.start(), end + 1, "", line[opening.start("link") : end + 1])
