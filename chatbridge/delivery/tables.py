"""Tables as columns of equal width, for services that have none of their own but can show code."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def grid(rows: Sequence[Sequence[str]]) -> str:
    """The rows, the first of them being the header, as lines of a monospaced font."""
    columns = max(map(len, rows))
    filled = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(width(row[i]) for row in filled) for i in range(columns)]
    padded = [[cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(row)] for row in filled]
    lines = [" │ ".join(row).rstrip() for row in padded]
    lines.insert(1, "─┼─".join("─" * each for each in widths))
    return "\n".join(lines)


def width(text: str) -> int:
    """Columns that a text takes: Chinese characters and most emoji two, combining marks none."""
    visible = [char for char in text if not unicodedata.combining(char) and char not in "\u200b\u200d\ufe0f"]
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in visible)
