"""Splits Markdown that is still growing into the blocks that no later text can change, and the rest.

Knows Markdown's block structure, nothing of screens. Block structure is decided line by line: once a line has begun
another top-level block, the blocks before it stay as they are (CommonMark, appendix "A parsing strategy"). Only
references to links that are defined further down would; they are left as typed.
"""

from __future__ import annotations

from itertools import pairwise

from markdown_it import MarkdownIt

_PARSER = MarkdownIt().enable("table").disable("inline")
"""The block structure that rich sees, too. What is inside of blocks does not matter here."""


class Blocks:
    """A Markdown text on its way. `rest` is what may still change."""

    def __init__(self) -> None:
        self.rest = ""

    def feed(self, text: str) -> list[str]:
        """Append text; the blocks that are finished now, each with the blank lines after it."""
        self.rest += text
        if "\n" not in text:
            return []
        # A line that is not complete yet could still turn out to belong to the block before it.
        finished = split(self.rest[: self.rest.rindex("\n") + 1])[:-1]
        self.rest = self.rest[sum(map(len, finished)) :]
        return finished


def split(text: str) -> list[str]:
    """The top-level blocks of a text; joined they are that text again."""
    lines = text.split("\n")
    starts = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map]
    edges = [0, *starts[1:], len(lines)]
    pieces = ["\n".join(lines[start:end]) for start, end in pairwise(edges)]
    return [piece + "\n" for piece in pieces[:-1]] + pieces[-1:]
