"""llama.cpp's own tokenizer, where it gives the reference's ids. Keeps it from what it does wrong.

It takes pieces of text that join to a token's name for that token, and ends the process for a character that a
SentencePiece vocabulary has neither a piece nor bytes for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatbridge_llama_cpp.pieces import BYTE, UNKNOWN
from chatbridge_llama_cpp.vocabulary import Vocabulary

_BLANK = "▁".encode()


class NativeEncoder:
    """An `Encoder` of llama.cpp's ids, but for those that say something else than the text does."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._bytes = frozenset[int]()

    def encode(self, text: str, *, start: bool) -> list[int]:
        ids: list[int] = []
        todo = [text.encode()]
        while todo:
            part = todo.pop()
            found = self._vocabulary.ids(part)
            number, at = self._forged(found, part)
            if number == len(found):
                ids += found
                continue
            # Pieces of text were joined to that token's name. Cut the name in two and keep the halves apart.
            cut = self._cut(part, found[number], at)
            if 0 < cut < len(part):
                todo += [part[cut:], part[:cut]]
            else:
                ids += [token for token in found if self._vocabulary.said(token)]
        return ids

    def _forged(self, ids: Sequence[int], raw: bytes) -> tuple[int, int]:
        """The number of the first token that is not there in the text, and where; `len(ids)` if all are."""
        raw, at = raw.replace(_BLANK, b" "), 0
        for number, token in enumerate(ids):
            said = self._vocabulary.said(token)
            if not said or (token in self._bytes and raw[at : at + 1] != said):
                return number, at
            at += len(said)
        return len(ids), at

    def _cut(self, raw: bytes, token: int, at: int) -> int:
        """Where to cut a text, near `at`, in which a token's name is."""
        name = self._vocabulary.text(token).replace(_BLANK, b" ")
        found = raw.find(name, at)
        cut = len(raw) // 2 if found < 0 else found + max(1, len(name) // 2)
        while cut < len(raw) and raw[cut] & 0xC0 == 0x80:  # inside a character
            cut += 1
        return cut


class SentencePiece(NativeEncoder):
    """SentencePiece's BPE. `dummy_prefix`: a blank before a text that starts."""

    def __init__(self, vocabulary: Vocabulary, *, dummy_prefix: bool) -> None:
        super().__init__(vocabulary)
        self._prefix = " " if dummy_prefix else ""
        self._bytes = frozenset(vocabulary.those(BYTE))
        self._unknown = vocabulary.those(UNKNOWN)[:1]
        self._strangers = self._unknown_characters() if len(self._bytes) < 256 else None

    def encode(self, text: str, *, start: bool) -> list[int]:
        text = (self._prefix if start and text else "") + text
        if self._strangers is None:
            return super().encode(text, start=start)
        ids: list[int] = []
        for number, part in enumerate(self._strangers.split(text)):
            ids += self._unknown if number else []
            ids += super().encode(part, start=start)
        return ids

    def _unknown_characters(self) -> re.Pattern[str]:
        """A run of characters that are no pieces, and so part of none."""
        known = {piece.text for piece in self._vocabulary.pieces() if len(piece.text) == 1}
        known |= {" "} if "▁" in known else set()
        return re.compile(f"[^{re.escape(''.join(sorted(known)))}]+" if known else ".+", re.DOTALL)
