"""Makes text safe to print: a model, or whoever wrote what it quotes, must not steer the terminal."""

from __future__ import annotations

_CONTROLS = {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}  # ESC among them, which begins every command to a terminal


def printable(text: str) -> str:
    """The text without control characters but line ends and tabs."""
    return text.translate(_CONTROLS)
