"""SentencePiece's Unigram: rules of normalisation, then the likeliest pieces. Knows pieces; knows no llama.cpp.

Kudo 2018 (arXiv 1804.10959) as sentencepiece 0.2 computes it: src/normalizer.cc, and `EncodeOptimized` of
src/unigram_model.cc. llama.cpp's own differs where blanks are merged, for unused and user-defined pieces, and has no
bytes for unknown characters.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence

from chatbridge_llama_cpp.encoding import VocabularyEntry

_BLANK = "▁".encode()
_PENALTY = 10.0  # how much less likely than the least likely piece an unknown character is
_FLT_MIN = 2.0**-126
_LEAF, _WIDE, _VALUE = 1 << 8, 1 << 9, (1 << 31) - 1
_LABEL = 1 << 31 | 0xFF


class Unigram:
    """An `Encoder`.

    `dummy_prefix`: a text that starts gets a blank before it. `merge_blanks`: blanks in a row become one, and those at
    both ends are left out. `charsmap`: rules of normalisation as `CharsMap` reads them; empty where there are none.
    """

    def __init__(
        self,
        entries: Sequence[VocabularyEntry],
        *,
        unknown: int,
        dummy_prefix: bool,
        merge_blanks: bool,
        charsmap: bytes,
    ) -> None:
        normal = [entry.score for entry in entries if entry.normal]
        # Single precision, as everything that is added up here.
        (self._unknown_score,) = array("f", [min(normal, default=0.0) - _PENALTY])
        greatest = max(_FLT_MIN, *normal) if normal else _FLT_MIN
        self._pieces = {entry.text: (entry.id, entry.score) for entry in entries if entry.normal}
        defined = [entry for entry in entries if entry.user_defined]
        for entry in defined:
            self._pieces[entry.text] = (entry.id, len(entry.text.encode()) * greatest - 0.1)
        self._longest: dict[str, int] = {}
        for piece in self._pieces:
            first = piece[:1]
            self._longest[first] = max(len(piece), self._longest.get(first, 0))
        self._defined: dict[int, list[bytes]] = {}  # by their first bytes, the longest first
        for text in sorted((entry.text.encode() for entry in defined if entry.text), key=len, reverse=True):
            self._defined.setdefault(text[0], []).append(text)
        self._bytes = [entry.id for entry in sorted((e for e in entries if e.byte), key=lambda e: e.text)]
        self._unknown = unknown
        self._dummy_prefix = dummy_prefix
        self._merge_blanks = merge_blanks
        self._charsmap = CharsMap(charsmap) if charsmap else None

    def encode(self, text: str, *, start: bool) -> list[int]:
        ids: list[int] = []
        for piece, token in self._best(self.normalise(text, start=start)):
            if token != self._unknown:
                ids.append(token)
            elif len(self._bytes) == 256:
                ids += [self._bytes[byte] for byte in piece.encode()]
            elif ids[-1:] != [token]:  # unknown characters in a row are one token
                ids.append(token)
        return ids

    def normalise(self, text: str, *, start: bool) -> str:
        """The text that is cut into pieces. One that goes on (`start` false) keeps the blank that it begins with."""
        parts = list(self._replaced(text.encode("utf-8", "replace")))
        if self._merge_blanks and start:
            first = next((i for i, part in enumerate(parts) if part != b" "), len(parts))
            del parts[:first]
        if not parts:
            return ""
        found = bytearray(_BLANK if start and self._dummy_prefix else b"")
        after_blank = self._merge_blanks and start
        for part in parts:
            kept = part.lstrip(b" ") if after_blank else part
            found += kept.replace(b" ", _BLANK)
            if kept:
                after_blank = self._merge_blanks and kept.endswith(b" ")
        while self._merge_blanks and found.endswith(_BLANK):
            del found[-len(_BLANK) :]
        return found.decode("utf-8", "replace")

    def _replaced(self, raw: bytes) -> Iterator[bytes]:
        """The text in parts: characters, what the rules put in their place, and user-defined pieces as they are."""
        at = 0
        while at < len(raw):
            part = next((text for text in self._defined.get(raw[at], ()) if raw.startswith(text, at)), b"")
            if part:
                at += len(part)
                yield part
                continue
            length, part = self._charsmap.longest(raw, at) if self._charsmap else (0, b"")
            if not length:
                length = 1 + (raw[at] >= 0xC0) + (raw[at] >= 0xE0) + (raw[at] >= 0xF0)
                part = raw[at : at + length]
            at += length
            yield part

    def _best(self, text: str) -> list[tuple[str, int]]:
        """The likeliest way to cut the text into pieces (Viterbi 1967), unknown characters alone."""
        scores = array("f", bytes(4 * (len(text) + 1)))
        # For each place: where the last piece begins, and its id.
        links: list[tuple[int, int] | None] = [None] * (len(text) + 1)

        def offer(begin: int, end: int, token: int, score: float) -> None:
            if links[end] is None or scores[begin] + score > scores[end]:
                scores[end] = scores[begin] + score
                links[end] = (begin, token)

        for begin, character in enumerate(text):
            for end in range(begin + 1, min(begin + self._longest.get(character, 0), len(text)) + 1):
                if (found := self._pieces.get(text[begin:end])) is not None:
                    offer(begin, end, *found)
            if character not in self._pieces:
                offer(begin, begin + 1, self._unknown, self._unknown_score)
        path, end = [], len(text)
        while (link := links[end]) is not None:
            begin, token = link
            path.append((text[begin:end], token))
            end = begin
        return path[::-1]


class CharsMap:
    """`precompiled_charsmap`: a double array (Aoe 1989; darts-clone's layout) of texts, and what replaces them."""

    def __init__(self, blob: bytes) -> None:
        size = int.from_bytes(blob[:4], "little")
        units = blob[4 : 4 + size]
        self._units = struct.unpack_from(f"<{len(units) // 4}I", units)
        self._replacements = blob[4 + size :]

    def longest(self, raw: bytes, at: int) -> tuple[int, bytes]:
        """The length of the longest text of the map that stands at `at`, and its replacement; 0 if there is none."""
        length, value = 0, 0
        node = _below(self._unit(0))
        for i in range(at, len(raw)):
            node ^= raw[i]
            unit = self._unit(node)
            if unit & _LABEL != raw[i]:
                break
            node ^= _below(unit)
            if unit & _LEAF:
                length, value = i + 1 - at, self._unit(node) & _VALUE
        if not length:
            return 0, b""
        return length, self._replacements[value : self._replacements.find(b"\0", value)]

    def _unit(self, node: int) -> int:
        return self._units[node] if node < len(self._units) else 0


def _below(unit: int) -> int:
    return unit >> 10 << ((unit & _WIDE) >> 6)
