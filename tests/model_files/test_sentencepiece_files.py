"""SentencePiece models are read field by field, and what no field may be is told."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from chatbridge import ModelLoadError
from chatbridge.model_files import sentencepiece_files
from chatbridge.model_files.sentencepiece_files import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    SentencePieceModel,
    count_pieces,
    read_sentencepiece,
)


def number(value: int) -> bytes:
    """As seven bits for each byte, the lowest first."""
    value %= 1 << 64
    found = b""
    while value >= 128:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def field(at: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return number(at << 3) + number(value)
    return number(at << 3 | 2) + number(len(value)) + value


def score(value: float) -> bytes:
    return number(2 << 3 | 5) + struct.pack("<f", value)


def piece(text: str, points: float = 0.0, kind: int | None = None, more: bytes = b"") -> bytes:
    return field(1, field(1, text.encode()) + score(points) + (b"" if kind is None else field(3, kind)) + more)


def read(folder: Path, *fields: bytes) -> SentencePieceModel:
    (folder / "m.model").write_bytes(b"".join(fields))
    return read_sentencepiece(folder / "m.model")


def test_pieces_have_texts_scores_and_kinds(tmp_path: Path) -> None:
    long = "x" * 128
    found = read(tmp_path, piece("a", -1.5), piece(long, 0.5, CONTROL), piece("b", 0.0, BYTE, field(9, b"more")))
    assert found.pieces == (("a", -1.5, NORMAL), (long, 0.5, CONTROL), ("b", 0.0, BYTE))
    assert (found.method, found.space_prefix, found.normalizes) == (UNIGRAM, True, False)
    assert found.ids == {"unk": 0, "bos": 1, "eos": 2}


def test_a_model_says_how_it_was_trained(tmp_path: Path) -> None:
    trainer = field(2, field(3, BPE) + field(40, 1) + field(41, -1) + field(42, 2) + field(43, 0))
    normalizer = field(3, field(3, 0) + field(2, b"map"))
    found = read(tmp_path, piece("a"), piece("b"), field(4, b"other"), trainer, normalizer)
    assert (found.method, found.space_prefix, found.normalizes) == (BPE, False, True)
    assert found.ids == {"unk": 1, "pad": 0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (field(2, b"") + b"\x12\x00", "it has no pieces"),
        (piece("a", 0.0, 0), "the piece 'a' is of kind 0"),
        (piece("a", 0.0, 7), "the piece 'a' is of kind 7"),
        (piece("a", 0.0, -1), "the piece 'a' is of kind -1"),
        (piece("a", float("nan")), "the piece 'a' is of kind 1 and has the score nan"),
        (field(1, 5), "a text is written as a number"),
        (field(1, field(1, 5)), "a text is written as a number"),
        (field(1, field(3, b"x")), "a number is written as text"),
        (piece("a") + b"\x08" + b"\xff" * 30, "a number has more than 64 bits"),
        (piece("a") + b"\x08" + b"\xff" * 9, "it ends inside a number"),
        (piece("a")[:-1], "it ends inside a piece"),
        (piece("a") + b"\x0b", "a field of the type 3"),
    ],
)
def test_what_is_no_model_says_why(tmp_path: Path, fields: bytes, words: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"no SentencePiece model \({words}.*\); download it again"):
        read(tmp_path, fields)


def test_a_score_that_is_a_number_of_another_form_is_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, field(1, field(1, b"a") + field(2, 5))).pieces == (("a", 0.0, NORMAL),)


def test_pieces_are_counted_whatever_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "m.model").write_bytes(piece("a") + field(1, 5) + field(2, b"") + field(1, b"anything"))
    assert count_pieces(tmp_path / "m.model") == 2


def test_a_model_may_have_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(piece("a"))
    monkeypatch.setattr(sentencepiece_files, "MAX_MODEL", size)
    read(tmp_path, piece("a"))
    with pytest.raises(ModelLoadError, match=f"it has more than {size} bytes"):
        read(tmp_path, piece("ab"))


def test_what_stands_in_the_place_of_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="the file is empty"):
        read(tmp_path, b"")
    with pytest.raises(ModelLoadError, match="this is a web page"):
        read(tmp_path, b"<!DOCTYPE html>")
    with pytest.raises(ModelLoadError, match=r"a list of ranks .tiktoken."):
        read(tmp_path, b"IQ== 0\nIg== 1\n")
