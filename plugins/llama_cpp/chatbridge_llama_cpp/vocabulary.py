"""One loaded vocabulary, by llama.cpp's functions. Knows no rules of text; may be called from any thread."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable
from typing import Any

from chatbridge_llama_cpp.encoding import CONTROL, VocabularyEntry
from chatbridge_llama_cpp.native import lib

_NO_BYTE = b"[UNK_BYTE_0x"
"""What llama.cpp writes for a letter that stands for no byte (`llama_decode_text`)."""


class Vocabulary:
    """`native`: llama.cpp's pointer; `kind`: its number of the type (`llama_vocab_type`); `size`: how many tokens."""

    def __init__(self, native: Any) -> None:
        self.native = native
        self.kind: int = lib.llama_vocab_type(native)
        self.size: int = lib.llama_vocab_n_tokens(native)
        self._attrs = array("i", (lib.llama_vocab_get_attr(native, i) for i in range(self.size)))
        self._pieces: dict[int, bytes] = {}
        self.hidden: tuple[bytes, ...] = ()

    def text(self, token: int) -> bytes:
        """How the file writes a token: its name, if it is a control token."""
        text: bytes = lib.llama_vocab_get_text(self.native, token)
        return text

    def with_attr(self, attr: int) -> list[int]:
        """The ids of all tokens that have one of these attributes (`llama_token_attr`)."""
        return [i for i, own in enumerate(self._attrs) if own & attr]

    def hide(self, tokens: Iterable[int]) -> None:
        """Take tokens for control tokens that llama.cpp takes for user-defined ones, and finds in plain text."""
        names = []
        for token in tokens:
            self._attrs[token] |= CONTROL
            self._pieces[token] = b""
            names.append(self.text(token))
        self.hidden = tuple(sorted(names, key=len, reverse=True))

    def entries(self) -> list[VocabularyEntry]:
        """Every token, by id."""
        score = lib.llama_vocab_get_score
        return [
            VocabularyEntry(i, self.text(i).decode("utf-8", "replace"), score(self.native, i), attr)
            for i, attr in enumerate(self._attrs)
        ]

    def piece(self, token: int) -> bytes:
        """What a token adds to a text (`llama_token_to_piece`); nothing for control, unknown and unused tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read(token)
        return piece

    def ids(self, raw: bytes) -> list[int]:
        """llama.cpp's ids of a text, in which it doesn't look for the names of control tokens."""
        room = len(raw) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = lib.llama_tokenize(self.native, raw, len(raw), buffer, room, False, False)
            if count >= 0:
                return buffer[:count]
            room = -count

    def _read(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = lib.llama_token_to_piece(self.native, token, buffer, room, 0, False)
            if size >= 0:
                return self._spelled(token, buffer.raw[:size])
            room = -size

    def _spelled(self, token: int, piece: bytes) -> bytes:
        """The piece, or the token's own text where llama.cpp found letters in it that stand for no byte.

        It then writes of each what it is not. To the reference's `ByteLevel` such a token is what it reads: Command-R
        has 1,403 of them, emoji and signs.
        """
        if _NO_BYTE not in piece:
            return piece
        text = self.text(token)
        return text if piece.count(_NO_BYTE) > text.count(_NO_BYTE) else piece
