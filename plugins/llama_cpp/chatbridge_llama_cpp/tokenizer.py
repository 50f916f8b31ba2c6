"""llama.cpp's tokenizer, held to one rule more: text never becomes a control token, whatever it says.

Knows one loaded vocabulary; knows no template and no model. llama.cpp's tokenizer may be called from any thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from chatbridge_llama_cpp.native import lib

_SPM, _UGM = 1, 4
_KINDS = {
    1: "SentencePiece BPE",
    2: "byte-level BPE",
    3: "WordPiece",
    4: "Unigram",
    5: "RWKV's greedy one",
    6: "PLaMo 2",
}


class LlamaTokenizer:
    """A `Tokenizer`, safe to call from any thread.

    `space_prefix`: whether a text that starts gets a blank before it. The vocabulary must have been loaded with
    `OVERRIDES` then, since llama.cpp itself would put one before every text and after every user-defined token.
    """

    def __init__(self, vocabulary: Any, *, space_prefix: bool) -> None:
        self._vocabulary = vocabulary
        kind = lib.llama_vocab_type(vocabulary)
        self.kind = _KINDS.get(kind, f"of type {kind}")
        self._prefix = {_SPM: b" ", _UGM: "▁".encode()}.get(kind, b"") if space_prefix else b""
        self.size: int = lib.llama_vocab_n_tokens(vocabulary)
        control = [i for i in range(self.size) if lib.llama_vocab_is_control(vocabulary, i)]
        self.controls = frozenset(control)
        names = {i: lib.llama_vocab_get_text(vocabulary, i).decode("utf-8", "replace") for i in control}
        # Of twins the first, which comes last here.
        self.specials: Mapping[str, int] = {name: i for i, name in reversed(names.items()) if name}
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, start: bool) -> list[int]:
        """The ids of plain text, never a control token's. Half characters (lone surrogates) become "?"."""
        raw = text.encode("utf-8", "replace")
        return self._encode((self._prefix if start and raw else b"") + raw)

    def special(self, token: str) -> int | None:
        """The id of a control token by its text."""
        return self.specials.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of ids; control tokens have none."""
        return b"".join([self._piece(token) for token in tokens])

    def ends(self) -> tuple[int, ...]:
        """Every id that ends a reply, the vocabulary's own first."""
        first = [lib.llama_vocab_eos(self._vocabulary), lib.llama_vocab_eot(self._vocabulary)]
        others = (i for i in range(self.size) if lib.llama_vocab_is_eog(self._vocabulary, i))
        return tuple(dict.fromkeys(i for i in (*first, *others) if 0 <= i < self.size))

    def begin(self) -> int | None:
        """The id that a prompt begins with, if this model wants one."""
        bos: int = lib.llama_vocab_bos(self._vocabulary)
        return bos if lib.llama_vocab_get_add_bos(self._vocabulary) and 0 <= bos < self.size else None

    def _encode(self, raw: bytes) -> list[int]:
        ids = self._ids(raw)
        at = next((i for i, token in enumerate(ids) if token in self.controls), None)
        if at is None:
            return ids
        # Pieces of text were joined to a control token's name. Cut the name in two and keep the halves apart.
        before = len(self.decode(ids[:at]))
        name = lib.llama_vocab_get_text(self._vocabulary, ids[at]).replace("▁".encode(), b" ")
        found = raw.find(name, max(0, before - len(self._prefix)))
        cut = len(raw) // 2 if found < 0 else found + max(1, len(name) // 2)
        cut = _character_border(raw, cut)
        if not 0 < cut < len(raw):
            return [token for token in ids if token not in self.controls]
        return self._encode(raw[:cut]) + self._encode(raw[cut:])

    def _ids(self, raw: bytes) -> list[int]:
        room = len(raw) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = lib.llama_tokenize(self._vocabulary, raw, len(raw), buffer, room, False, False)
            if count >= 0:
                return buffer[:count]
            room = -count

    def _piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def _read_piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = lib.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, False)
            if size >= 0:
                return buffer.raw[:size]
            room = -size


def _character_border(raw: bytes, at: int) -> int:
    """The next place from `at` on that does not cut a character in two."""
    while at < len(raw) and raw[at] & 0xC0 == 0x80:
        at += 1
    return at
