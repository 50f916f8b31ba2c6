"""A terminal of a few lines: enough of one to see what is left on it after rich has drawn and taken back."""

from __future__ import annotations

import io
import re

from rich.cells import cell_len


class Terminal(io.StringIO):
    """A file that says it is a terminal, and keeps what a person would see. Fails on controls that it lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = [""]
        self.row = 0
        self.writes: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes.append(text)
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
            if part == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif part == "\x1b[2K":
                self.rows[self.row] = ""
            elif move := re.fullmatch(r"\x1b\[(\d+)A", part):
                self.row -= int(move[1])
                assert self.row >= 0, "went above the first line"
            elif part == "\r" or re.fullmatch(r"\x1b\[[0-9;]*m", part) or part in ("\x1b[?25l", "\x1b[?25h"):
                pass  # rich erases whole lines and writes them anew, so columns and colours matter nothing here
            else:
                assert not part.startswith("\x1b"), f"unknown control {part!r}"
                self.rows[self.row] += part
        return len(text)

    @property
    def shown(self) -> list[str]:
        """The rows, without blanks at their ends and empty rows at the end."""
        rows = [row.rstrip() for row in self.rows]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    @property
    def widest(self) -> int:
        return max(map(cell_len, self.rows))
