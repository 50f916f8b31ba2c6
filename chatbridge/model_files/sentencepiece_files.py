"""Reads SentencePiece models: pieces, scores, kinds, control ids. Encodes nothing, and needs no protobuf.

The format: github.com/google/sentencepiece, src/sentencepiece_model.proto, in protocol buffers' wire format. Nothing in
a file is trusted.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.kinds import refuse_stand_ins

MAX_MODEL = 32 << 20
"""Bytes of a SentencePiece model; those of 256,000 pieces have 5 MB."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of pieces, by the numbers that GGUF has for them, too."""

UNIGRAM, BPE = 1, 2
"""How a model was trained."""

_IDS = {40: "unk", 41: "bos", 42: "eos", 43: "pad"}
_USUAL_IDS = {"unk": 0, "bos": 1, "eos": 2, "pad": -1}

_RANKS = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\n")
"""How a line of tiktoken's files looks: bytes in base64, and their rank."""

Field = int | bytes


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """`pieces`: text, score and kind by id. `method`: UNIGRAM or BPE. `ids`: of "unk", "bos", "eos" and "pad", those
    that it has. `space_prefix`: whether text gets a blank before it; `normalizes`: whether characters are replaced."""

    pieces: tuple[tuple[str, float, int], ...]
    method: int = UNIGRAM
    ids: Mapping[str, int] = field(default_factory=dict)
    space_prefix: bool = True
    normalizes: bool = False


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """The whole of a model. Raises ModelLoadError for what is none."""
    data = _bytes_of(path)
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Field] = {}
    normalizer: dict[int, Field] = {}
    try:
        for number, value in _fields(data):
            if number == 1:
                pieces.append(_piece(_message(value)))
            elif number == 2:
                trainer |= dict(_fields(_message(value)))
            elif number == 3:
                normalizer |= dict(_fields(_message(value)))
        if not pieces:
            raise ValueError("it has no pieces")
    except (IndexError, ValueError, TypeError, struct.error) as error:
        raise _no_model(path, error) from None
    ids = {name: _signed(trainer.get(number, _USUAL_IDS[name])) for number, name in _IDS.items()}
    return SentencePieceModel(
        tuple(pieces),
        _signed(trainer.get(3, UNIGRAM)),
        {name: number for name, number in ids.items() if 0 <= number < len(pieces)},
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(2, b"")),
    )


def count_pieces(path: Path) -> int:
    """How many pieces a SentencePiece model has. Raises ModelLoadError for what is none."""
    data = _bytes_of(path)
    try:
        count = sum(number == 1 and isinstance(value, bytes) for number, value in _fields(data))
        if not count:
            raise ValueError("it has no pieces")
    except (IndexError, ValueError) as error:
        raise _no_model(path, error) from None
    return count


def _bytes_of(path: Path) -> bytes:
    refuse_stand_ins(path)
    if path.stat().st_size > MAX_MODEL:
        raise ModelLoadError(f"{path}: this is no SentencePiece model: it has more than {MAX_MODEL:,} bytes")
    data = path.read_bytes()
    if _RANKS.match(data):
        raise ModelLoadError(
            f"{path}: this is no SentencePiece model but a list of ranks (tiktoken), as Llama 3 has in Meta's form; "
            f"take the model in Hugging Face's form, with tokenizer.json"
        )
    return data


def _no_model(path: Path, error: Exception) -> ModelLoadError:
    why = "it ends inside a number" if isinstance(error, IndexError) else error
    return ModelLoadError(f"{path}: this is no SentencePiece model ({why}); download it again")


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = _message(value).decode()
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3:
            kind = _signed(value)
    if not NORMAL <= kind <= BYTE or score != score:
        raise ValueError(f"the piece {text[:50]!r} is of kind {kind} and has the score {score}")
    return text, score, kind


def _fields(data: bytes) -> Iterator[tuple[int, Field]]:
    """Number and value of each field: a whole number, or bytes. Raises ValueError or IndexError for damaged ones."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the type {kind}")
        if at + size > end:
            raise ValueError("it ends inside a piece")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift == 70:  # after ten bytes
            raise ValueError("a number has more than 64 bits")


def _signed(value: Field) -> int:
    """A number that may be negative, which takes ten bytes as 64 bits."""
    if not isinstance(value, int):
        raise TypeError("a number is written as text")
    return value - (1 << 64) if value >> 63 else value


def _message(value: Field) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a text is written as a number")
    return value
