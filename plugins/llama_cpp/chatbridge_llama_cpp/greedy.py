"""RWKV's World tokenizer: the longest piece that comes next, byte by byte. Knows pieces; knows no llama.cpp.

As BlinkDL/ChatRWKV's rwkv_tokenizer.py computes it. llama.cpp's own takes texts like <s> and [PAD1], which stand in
the file for tokens that have no text, for those tokens.
"""

from __future__ import annotations

from collections.abc import Mapping


class Greedy:
    """An `Encoder`. `pieces`: ids by their bytes; `unknown`: the id of a byte that none begins with, if it has one."""

    def __init__(self, pieces: Mapping[bytes, int], *, unknown: int | None) -> None:
        self._pieces = pieces
        self._unknown = [] if unknown is None else [unknown]
        self._longest: dict[bytes, int] = {}
        for piece in pieces:
            self._longest[piece[:2]] = max(len(piece), self._longest.get(piece[:2], 0))

    def encode(self, text: str, *, start: bool) -> list[int]:
        raw, at = text.encode(), 0
        ids: list[int] = []
        while at < len(raw):
            longest = self._longest.get(raw[at : at + 2], 1)
            ends = range(min(len(raw), at + longest), at, -1)
            end = next((end for end in ends if raw[at:end] in self._pieces), None)
            ids += self._unknown if end is None else [self._pieces[raw[at:end]]]
            at = at + 1 if end is None else end
        return ids
