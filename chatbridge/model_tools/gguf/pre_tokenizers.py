"""By which name llama.cpp knows the way in which a byte-level tokenizer cuts text into words. A table; encodes nothing.

The patterns stand as the models' own tokenizer.json have them; the names are those of llama.cpp, src/llama-vocab.cpp.
What is not in the table is not guessed, since other words give other ids without a sign of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

GPT2 = "as GPT-2"
DIGITS = "each digit"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

PRE_TOKENIZERS: Mapping[tuple[str, ...], str] = {
    (GPT2,): "gpt-2",
    (DIGITS, GPT2): "smollm",
    (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}",): "llama-bpe",
    (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}",): "qwen2",
    (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
     r"|\s*[\r\n]+|\s+(?!\S)|\s+",): "qwen35",
    (rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}{_SLASHES}",): "tekken",
    (rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}{_SLASHES}",): "gpt-4o",
    (r" ?[^(\s|[.,!?…。，、।۔،])]+",): "bloom",
    (r" ?[^(\s|.,!?…。，、।۔،)]+",): "bloom",
}  # fmt: skip
"""llama.cpp's names, by the patterns that cut a text one after another."""

OF_CLASSES: Mapping[str, str] = {
    "GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2", "Qwen2TokenizerFast": "qwen2", "BloomTokenizerFast": "bloom",
}  # fmt: skip
"""The same, by the `tokenizer_class` of folders that have vocab.json and merges.txt alone."""


def pre_tokenizer(written: Any) -> tuple[str, ...]:
    """How a tokenizer.json cuts text, by its `pre_tokenizer`, as the table's keys. Raises ValueError, in words."""
    return tuple(_steps(written))


def _steps(written: Any) -> Iterator[str]:
    written = written if isinstance(written, dict) else {}
    kind = written.get("type")
    if kind == "Sequence" and isinstance(written.get("pretokenizers"), list):
        for one in written["pretokenizers"]:
            yield from _steps(one)
    elif kind == "ByteLevel":
        if written.get("use_regex", True):
            yield GPT2
    elif kind == "Digits" and written.get("individual_digits"):
        yield DIGITS
    elif kind == "Split" and (written.get("behavior"), bool(written.get("invert"))) in _APART:
        yield _pattern(written.get("pattern"))
    else:
        raise ValueError(f"it cuts words by {str(kind)[:50]!r}")


_APART = {("Isolated", False), ("Isolated", True), ("Removed", True)}
"""Ways to split that keep all of a text: each match of the pattern becomes a word."""


def _pattern(written: Any) -> str:
    if isinstance(written, dict) and isinstance(found := written.get("Regex"), str):
        return found
    if isinstance(written, dict) and isinstance(found := written.get("String"), str):
        return re.escape(found)
    raise ValueError("it cuts words by a pattern that is none")
