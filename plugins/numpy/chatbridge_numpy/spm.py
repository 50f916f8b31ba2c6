"""SentencePiece's byte-pair encoding, as LLaMA uses it: pieces joined by score, unknown characters as bytes.

Reference: github.com/google/sentencepiece, bpe_model.cc. Knows one vocabulary; knows no control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import add
from pathlib import Path

from chatbridge import ModelLoadError
from chatbridge_numpy.merging import merge
from chatbridge_numpy.vocabulary import BYTE, NORMAL, UNUSED, USER_DEFINED, Vocabulary

SPACE = "▁"
_MAX_CACHED_RUNS = 1 << 15
_MAX_CACHED_LENGTH = 64


class SpmEncoder:
    """Cuts text into the ids that SentencePiece gives.

    `scores`: one for each id; the pair whose piece has the highest is joined first. `space_prefix`: whether a text
    that starts gets a blank before it.
    """

    def __init__(self, vocabulary: Vocabulary, scores: Sequence[float], path: Path, *, space_prefix: bool) -> None:
        self._ids = vocabulary.of_kind(NORMAL, USER_DEFINED)
        self._unused = vocabulary.of_kind(UNUSED)
        ranked = self._ids | self._unused
        self._ranks = {piece: -scores[i] for piece, i in ranked.items()}
        self._bytes = {int(piece[3:5], 16): i for piece, i in vocabulary.of_kind(BYTE).items()}
        if len(self._bytes) < 256:
            raise ModelLoadError(
                f"{path}: the vocabulary has {len(self._bytes)} of the 256 single bytes, so it can't write every "
                f"text; take a model whose tokenizer was trained with byte fallback, as all of LLaMA's were"
            )
        self._space_prefix = space_prefix
        # Two characters that are neighbours in no piece are never joined, so text can be cut between them beforehand
        # with the same result: the ids of short runs can be cached.
        self._joinable = {piece[i : i + 2] for piece in ranked for i in range(len(piece) - 1)}
        self._cached = lru_cache(_MAX_CACHED_RUNS)(self._encode_run)

    def prepare(self, text: str, *, start: bool) -> str:
        """Blanks as SentencePiece writes them, and its dummy one before the text where it starts."""
        if not text:
            return ""
        escaped = text.replace(" ", SPACE)
        return SPACE + escaped if start and self._space_prefix else escaped

    def encode(self, text: str) -> list[int]:
        """The ids of prepared text."""
        ids: list[int] = []
        joinable, begin = self._joinable, 0
        for end, pair in enumerate(map(add, text, text[1:]), 1):
            if pair not in joinable:
                ids += self._run(text[begin:end])
                begin = end
        ids += self._run(text[begin:])
        return ids

    def _run(self, run: str) -> tuple[int, ...]:
        return self._cached(run) if len(run) <= _MAX_CACHED_LENGTH else self._encode_run(run)

    def _encode_run(self, run: str) -> tuple[int, ...]:
        ids: list[int] = []
        halves: dict[str, tuple[str, str]] = {}

        def rank(left: str, right: str) -> float | None:
            found = self._ranks.get(left + right)
            if found is not None and left + right in self._unused:
                halves[left + right] = (left, right)
            return found

        parts = merge(list(run), rank)[::-1]
        while parts:
            part = parts.pop()
            if part in self._unused and part in halves:  # only a step on the way to a longer piece
                parts += halves[part][::-1]
            else:
                ids += self._piece(part)
        return tuple(ids)

    def _piece(self, piece: str) -> list[int]:
        found = self._ids.get(piece)
        return [self._bytes[byte] for byte in piece.encode()] if found is None else [found]
