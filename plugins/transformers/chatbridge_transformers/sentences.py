"""Reads `tokenizer.model` by sentencepiece itself, whose ids are those of Meta's code; transformers' differ in blanks.

Knows that library; knows no model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from chatbridge import ModelLoadError
from chatbridge_transformers.vocabulary import Encode, Pieces

_BLANK = "▁"
_MAX_ID = 1 << 31
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""NormalizerSpec { add_dummy_prefix: false } as field 3 of a ModelProto: what comes later in a message wins."""


def read(path: Path, added: Mapping[str, int], named: Collection[str], *, add_bos: bool) -> tuple[Encode, Pieces]:
    """How the file encodes, and what its ids stand for.

    `added`: tokens beside the file, by their text, with ids behind the file's. `named`: texts that are called special.
    `add_bos`: whether prompts begin with its bos. Raises ModelLoadError.
    """
    try:
        raw = path.read_bytes()
        first = SentencePieceProcessor(model_proto=raw)
        later = SentencePieceProcessor(model_proto=raw + _NO_DUMMY_PREFIX)
        size = first.get_piece_size()
        names = first.id_to_piece(list(range(size)))
    except (OSError, RuntimeError, ValueError) as error:  # also for names that are no UTF-8
        raise ModelLoadError(f"{path}: this is no SentencePiece model ({error}); download it again") from error
    for text, token in added.items():
        if not 0 <= token < _MAX_ID:
            raise ModelLoadError(f"{path.parent}: added_tokens.json gives {text!r} the id {token}; download it again")
        if token < size and names[token] != text:
            raise ModelLoadError(
                f"{path}: added_tokens.json gives {text!r} the id {token}, which is {names[token]!r} here; "
                f"take both files from the same place"
            )
    text_of: dict[int, bytes] = {}
    special: dict[str, int] = {}
    others: dict[str, int] = {}
    for token in range(size):
        piece = first.id_to_piece(token)
        if first.is_control(token):
            special[piece] = token
            text_of[token] = b""
        elif first.is_unknown(token) or first.is_unused(token):
            text_of[token] = b""
        elif first.is_byte(token):
            text_of[token] = bytes([int(piece[3:5], 16)])
        else:
            text_of[token] = piece.replace(_BLANK, " ").encode()
    # Those that a user has defined are found in text as they are; whether they are marks is seen by their form.
    for token in _user_defined(first, later, size):
        others[first.id_to_piece(token)] = token
    for text, token in added.items():
        if token >= size:
            text_of[token] = text.encode()
            (special if text in named else others)[text] = token

    def encode(text: str, start: bool) -> list[int]:
        ids: list[int] = (first if start else later).encode(text)
        return ids

    bos, eos = first.bos_id(), first.eos_id()
    ends = (eos,) if eos >= 0 else ()
    return encode, Pieces(text_of, special, others, bos if bos >= 0 else None, ends, add_bos)


def _user_defined(first: SentencePieceProcessor, later: SentencePieceProcessor, size: int) -> list[int]:
    """Pieces in brackets that a text of just their letters gives: the library doesn't tell what is user-defined."""
    return [
        token
        for token in range(size)
        if (piece := first.id_to_piece(token))[:1] in "<["
        and len(piece) > 2
        and piece[-1] in ">]"
        and not (first.is_control(token) or first.is_byte(token) or first.is_unknown(token))
        and later.encode(piece) == [token]
    ]
