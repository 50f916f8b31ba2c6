"""Byte-level byte-pair encoding, as GPT-2, Llama 3 and Qwen use it: text cut by a pattern, bytes joined by rank.

References: github.com/openai/gpt-2, encoder.py; the patterns are those of the models' own tokenizer.json. Knows
one vocabulary; knows no control tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import regex

from chatbridge import ModelLoadError
from chatbridge_numpy.merging import merge
from chatbridge_numpy.vocabulary import NORMAL, USER_DEFINED, Vocabulary

_MAX_CACHED_WORDS = 1 << 15
_MAX_CACHED_LENGTH = 64
_NEEDED = frozenset(b"\n" + bytes(range(32, 127)))
"""A vocabulary without one of these was not made by training."""


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is cut into words: by each pattern in turn. What lies between its matches is a word as well.

    `whole_words`: a word that is a token itself is taken as it is (`ignore_merges` in tokenizer.json).
    """

    patterns: tuple[str, ...]
    whole_words: bool = False


_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PRE_TOKENIZERS = {
    # What llama.cpp does with files whose converter named no pattern.
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": PreTokenizer((_GPT2,)),
    "llama-bpe": PreTokenizer((_LLAMA3,), whole_words=True),
    "qwen2": PreTokenizer((_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),)),
    "smollm": PreTokenizer((r"\p{N}", _GPT2)),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True),
    "bloom": PreTokenizer((r" ?[^(\s|.,!?…。，、।۔،)]+",)),
}
_ALIASES = {
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "gpt2": "gpt-2",
    "mpt": "gpt-2",
    "olmo": "gpt-2",
    "phi-2": "gpt-2",
    "stablelm2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "command-r": "smollm",
    "refact": "smollm",
    "starcoder": "smollm",
}


class BpeEncoder:
    """Cuts text into the ids that the model's own tokenizer gives. `merges`: "left right", best first."""

    def __init__(self, vocabulary: Vocabulary, merges: Iterable[bytes], pre: str, path: Path) -> None:
        self._ids = vocabulary.of_kind(NORMAL, USER_DEFINED)
        name = _ALIASES.get(pre, pre)
        if name not in PRE_TOKENIZERS:
            raise ModelLoadError(
                f"{path}: the tokenizer cuts words as {pre!r}, which the numpy backend doesn't know (it knows "
                f"{', '.join(sorted(PRE_TOKENIZERS | _ALIASES))}); use backend: llama_cpp"
            )
        self.missing = frozenset(byte for byte, letter in enumerate(LETTERS) if letter not in self._ids)
        """The bytes that the vocabulary has no token for, as training never saw them; the model's own code leaves them
        out of what it reads, and so do we."""
        if not self.missing.isdisjoint(_NEEDED):
            raise ModelLoadError(
                f"{path}: the vocabulary lacks {len(self.missing)} of the 256 single bytes, letters among them; it was "
                f"converted wrongly"
            )
        self._whole_words = PRE_TOKENIZERS[name].whole_words
        self._patterns = [regex.compile(pattern) for pattern in PRE_TOKENIZERS[name].patterns]
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
