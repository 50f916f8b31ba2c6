"""One loaded vocabulary, as llama.cpp tells of it. Knows no rules of text; may be asked from any thread."""

from __future__ import annotations

import ctypes
from array import array
from typing import Any

from chatbridge_llama_cpp.native import lib
from chatbridge_llama_cpp.pieces import Piece


class Vocabulary:
    """`kind`: llama.cpp's number of its type; `size`: how many tokens."""

    def __init__(self, native: Any) -> None:
        self.native = native
        self.kind: int = lib.llama_vocab_type(native)
        self.size: int = lib.llama_vocab_n_tokens(native)
        self._bits = array("i", (lib.llama_vocab_get_attr(native, i) for i in range(self.size)))
        self._said: dict[int, bytes] = {}

    def text(self, token: int) -> bytes:
        """How the file writes a token: its name, if it is a control token."""
        text: bytes = lib.llama_vocab_get_text(self.native, token)
        return text

    def those(self, bits: int) -> list[int]:
        """The ids of all tokens that are one of these (`llama_token_attr`)."""
        return [i for i, own in enumerate(self._bits) if own & bits]

    def pieces(self) -> list[Piece]:
        """Every token, by id."""
        score = lib.llama_vocab_get_score
        return [
            Piece(i, self.text(i).decode("utf-8", "replace"), score(self.native, i), bits)
            for i, bits in enumerate(self._bits)
        ]

    def said(self, token: int) -> bytes:
        """What a token adds to a text; nothing where it is a control token, unknown or unused."""
        said = self._said.get(token)
        if said is None:
            said = self._said[token] = self._read(token)
        return said

    def ids(self, raw: bytes) -> list[int]:
        """What llama.cpp makes of a text, names of control tokens not looked for."""
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
                return buffer.raw[:size]
            room = -size
