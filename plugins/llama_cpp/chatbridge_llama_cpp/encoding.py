"""What encoders are made from and what they do: the entries of a vocabulary, and ids of a text. Knows no llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

UNKNOWN, UNUSED, NORMAL, CONTROL, USER_DEFINED, BYTE = (1 << bit for bit in range(6))
"""llama.cpp's bits of what a token is (`llama_token_attr`): plain text, a control token, a single byte, …"""


@dataclass(frozen=True, slots=True)
class VocabularyEntry:
    """One token: its text as the file writes it, its log probability, and its attributes (`llama_token_attr`)."""

    id: int
    text: str
    score: float
    attr: int

    @property
    def normal(self) -> bool:
        return self.attr & (NORMAL | CONTROL) == NORMAL

    @property
    def user_defined(self) -> bool:
        return self.attr & (USER_DEFINED | CONTROL) == USER_DEFINED

    @property
    def byte(self) -> bool:
        return bool(self.attr & BYTE)


class Encoder(Protocol):
    """Gives plain text the ids that the model's original tokenizer gives it, and never a control token's."""

    def encode(self, text: str, *, start: bool) -> list[int]:
        """`start`: the text begins a prompt, or follows a control token."""
        ...
