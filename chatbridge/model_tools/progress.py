"""How far a long piece of work is, told in bytes. Values and a protocol; draws nothing (`cli/progress.py` does)."""

from __future__ import annotations

from typing import Protocol


class WorkProgress(Protocol):
    """Told of a piece of work as it goes on. Called from one thread."""

    def begin(self, doing: str, total: int) -> None:
        """A new stage: what is done, in a word or two, and how many bytes it goes through; 0 where nobody knows."""
        ...

    def advance(self, nbytes: int) -> None:
        """So many bytes more of the stage are done."""
        ...


class Silent:
    """Tells nobody."""

    def begin(self, doing: str, total: int) -> None: ...

    def advance(self, nbytes: int) -> None: ...
