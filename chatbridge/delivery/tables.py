"""Tables as columns of equal width, for services that have none of their own but can show code."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

MAX_PADDING = 4
"""How many times as long as its words a table may become by the blanks that make its columns equal. Beyond that, as
where one cell of many rows is very long, columns are of no use, and the blanks could be the square of the words."""
_FREE = 2000
"""Characters that no table is too short for."""


def grid(rows: Sequence[Sequence[str]]) -> str:
    """The rows, the first of them being the header, as lines of a monospaced font."""
    rows = [_without_empty_end(row) for row in rows]
    columns = max(1, *map(len, rows))
    words = sum(len(cell) + 3 for row in rows for cell in row)
    most = MAX_PADDING * words + _FREE
    if columns * len(rows) > most:  # rows that are far shorter than the longest
        return _unaligned(rows)
    filled = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(width(row[i]) for row in filled) for i in range(columns)]
    if (sum(widths) + 3 * columns) * len(rows) > most:
        return _unaligned(rows)
    padded = [[cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(row)] for row in filled]
    lines = [" │ ".join(row).rstrip() for row in padded]
    lines.insert(1, "─┼─".join("─" * each for each in widths))
    return "\n".join(lines)


def _without_empty_end(row: Sequence[str]) -> Sequence[str]:
    return next((row[:at] for at in range(len(row), 0, -1) if row[at - 1]), ())


def _unaligned(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(" │ ".join(row) for row in rows)


def width(text: str) -> int:
    """Columns that a text takes: Chinese characters and most emoji two, combining marks none."""
    visible = [char for char in text if not unicodedata.combining(char) and char not in "\u200b\u200d\ufe0f"]
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in visible)
