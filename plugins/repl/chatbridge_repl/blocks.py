"""Splits Markdown that is still growing into the blocks that no later text can change, and the rest.

Knows Markdown's block structure, nothing of screens. Block structure is decided line by line: once a line has begun
another top-level block, the blocks before it stay as they are (CommonMark, appendix "A parsing strategy").
"""

from __future__ import annotations

from chatbridge import split_markdown


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
        finished = split_markdown(self.rest[: self.rest.rindex("\n") + 1])[:-1]
        self.rest = self.rest[sum(map(len, finished)) :]
        return finished
