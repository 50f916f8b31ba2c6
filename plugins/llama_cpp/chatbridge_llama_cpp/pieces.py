"""What a vocabulary says of one of its tokens, and what makes tokens of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

UNKNOWN, UNUSED, NORMAL, CONTROL, USER_DEFINED, BYTE = (1 << bit for bit in range(6))
"""llama.cpp's bits of what a token is (`llama_token_attr`)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A token: its text as the file writes it, its log probability, and the bits of what it is."""

    id: int
    text: str
    score: float
    bits: int

    @property
    def normal(self) -> bool:
        return self.bits & (NORMAL | CONTROL) == NORMAL

    @property
    def user_defined(self) -> bool:
        return self.bits & (USER_DEFINED | CONTROL) == USER_DEFINED

    @property
    def byte(self) -> bool:
        return bool(self.bits & BYTE)


class Encoder(Protocol):
    """Makes the reference's ids of plain text, and never a control token's."""

    def encode(self, text: str, *, start: bool) -> list[int]:
        """`start`: the text begins a prompt, or follows a control token."""
        ...
