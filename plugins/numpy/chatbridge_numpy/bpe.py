"""Byte-level byte-pair encoding, as GPT-2, Llama 3 and Qwen use it: text cut by a pattern, bytes joined by rank.

Reference: github.com/openai/gpt-2, encoder.py. Knows one vocabulary; knows no control tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import regex

from chatbridge import ModelLoadError
from chatbridge_numpy.merging import merge
from chatbridge_numpy.pre_tokenizers import ALIASES, PRE_TOKENIZERS, pre_tokenizer
from chatbridge_numpy.vocabulary import NORMAL, USER_DEFINED, Vocabulary

_MAX_CACHED_WORDS = 1 << 15
_MAX_CACHED_LENGTH = 64
_NEEDED = frozenset(b"\n" + bytes(range(32, 127)))
"""A vocabulary without one of these was not made by training."""


class BpeEncoder:
    """Cuts text into the ids that the model's own tokenizer gives. `merges`: "left right", best first."""

    def __init__(self, vocabulary: Vocabulary, merges: Iterable[bytes], pre: str, path: Path) -> None:
        self._ids = vocabulary.of_kind(NORMAL, USER_DEFINED)
        found = pre_tokenizer(pre)
        if found is None:
            raise ModelLoadError(
                f"{path}: the tokenizer cuts words as {pre!r}, which the numpy backend doesn't know (it knows "
                f"{', '.join(sorted(PRE_TOKENIZERS | ALIASES))}); use backend: llama_cpp"
            )
        self.missing = frozenset(byte for byte, letter in enumerate(LETTERS) if letter not in self._ids)
        """The bytes that the vocabulary has no token for, as training never saw them; the model's own code leaves them
        out of what it reads, and so do we."""
        if not self.missing.isdisjoint(_NEEDED):
            raise ModelLoadError(
                f"{path}: the vocabulary lacks {len(self.missing)} of the 256 single bytes, letters among them; it was "
                f"converted wrongly"
            )
        self._whole_words = found.whole_words
        self._patterns = [regex.compile(pattern) for pattern in found.patterns]
        pairs = (line.decode("utf-8", "replace").partition(" ") for line in merges)
        self._ranks = {(left, right): float(i) for i, (left, _, right) in enumerate(pairs)}
        self._cached = lru_cache(_MAX_CACHED_WORDS)(self._encode_word)

    def prepare(self, text: str, *, start: bool) -> str:
        """The text itself: byte-level models put nothing before it."""
        return text

    def encode(self, text: str) -> list[int]:
        """The ids of text."""
        ids: list[int] = []
        for word in words(text, self._patterns):
            ids += self._cached(word) if len(word) <= _MAX_CACHED_LENGTH else self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> tuple[int, ...]:
        letters = "".join([LETTERS[byte] for byte in word.encode()])
        if self._whole_words and (found := self._ids.get(letters)) is not None:
            return (found,)
        if self.missing:  # before they are joined, so that their neighbours are
            letters = "".join([LETTERS[byte] for byte in word.encode() if byte not in self.missing])
        ids: list[int] = []
        for part in merge(list(letters), lambda left, right: self._ranks.get((left, right))):
            found = self._ids.get(part)
            ids += [self._ids[letter] for letter in part if letter in self._ids] if found is None else [found]
        return tuple(ids)


def words(text: str, patterns: Sequence[regex.Pattern[str]]) -> list[str]:
    """The words of `text`, which are never joined with one another; together they are the text."""
    parts = [text]
    for pattern in patterns:
        parts = [piece for part in parts for piece in _cut(part, pattern)]
    return parts


def _cut(text: str, pattern: regex.Pattern[str]) -> list[str]:
    """The matches of `pattern` and what lies between them, in order."""
    parts, at = [], 0
    for match in pattern.finditer(text):
        begin, end = match.span()
        if begin == end:
            continue
        if begin > at:
            parts.append(text[at:begin])
        parts.append(text[begin:end])
        at = end
    if at < len(text):
        parts.append(text[at:])
    return parts


def _letters() -> tuple[str, ...]:
    """GPT-2's printable letter for each byte: itself where it prints, else the next free one from 256 on."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in plain else next(others)) for byte in range(256))


LETTERS = _letters()
