"""A GGUF header is read up to its last byte, and each of its sizes to its bound."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from chatbridge import GgufHeader, GgufStrings
from chatbridge.model_files.gguf import GgufTensor

from .test_gguf import ARRAY, DATA, PAIRS, STRING, UINT8, UINT32, array, pair, refused, tensor, text, write

KEY = pair("", UINT8, b"\7")
"""As short as a pair can be."""


def short(folder: Path, pairs: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), version: int = 3) -> Path:
    """A file that ends with its header."""
    path = folder / "file.gguf"
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    path.write_bytes(header + b"".join(pairs) + b"".join(tensors))
    return path


def read(path: Path) -> GgufHeader:
    return GgufHeader(path, reader="this test")


@pytest.mark.parametrize(
    ("pairs", "tensors"),
    [
        ((), ()),
        ((KEY,), ()),
        ((pair("", ARRAY, array(STRING, 1, text(""))),), ()),
        ((pair("", ARRAY, array(STRING, 2, text("") + text("ab"))),), ()),
        ((pair("", ARRAY, array(UINT32, 2, bytes(8))),), ()),
        ((pair("", STRING, text("ab")),), ()),
        ((), (tensor("", 1, kind=999),)),
    ],
)
def test_the_shortest_headers_end_where_the_file_does(
    tmp_path: Path, pairs: tuple[bytes, ...], tensors: tuple[bytes, ...]
) -> None:
    path = short(tmp_path, pairs, tensors)
    found = read(path)
    assert (len(found.metadata), len(found.tensors)) == (len(pairs), len(tensors))
    path.write_bytes(path.read_bytes()[:-1])
    refused(path)


def test_strings_that_should_follow_the_last_byte(tmp_path: Path) -> None:
    strings = pair("", ARRAY, array(STRING, 2, text("12345678")))
    refused(short(tmp_path, (strings,)), "it ends inside the header")
    refused(short(tmp_path, (pair("", ARRAY, array(STRING, 1, text("ab")[:-1])),)), "it ends inside the header")
    refused(short(tmp_path, (pair("", ARRAY, array(STRING, 2, text(""))),)), "2 entries should follow")


def test_a_file_of_23_bytes_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(19))
    refused(tmp_path / "m.gguf", "this is no GGUF file; it has 23 bytes")


@pytest.mark.parametrize(
    ("version", "words"), [(1, "of GGUF version 1"), (4, "of GGUF version 4"), (3 << 24, "big-endian")]
)
def test_other_versions_are_told(tmp_path: Path, version: int, words: str) -> None:
    assert read(short(tmp_path, (KEY,), version=2)).metadata == {"": 7}
    refused(short(tmp_path, (KEY,), version=version), f"this file is {words}")


@pytest.mark.parametrize("what", ["key", "name"])
def test_names_have_so_many_characters_and_no_more(tmp_path: Path, what: str) -> None:
    for length in (1024, 1025):
        name = "n" * length
        pairs, tensors = ((pair(name, UINT8, b"\1"),), ()) if what == "key" else ((), (tensor(name, 1, kind=999),))
        path = short(tmp_path, pairs, tensors)
        if length == 1024:
            assert {*read(path).metadata, *read(path).tensors} == {name}
        else:
            refused(path, "has 1,025 characters")


def test_sizes_that_no_file_has_are_damage_and_others_only_cut_short(tmp_path: Path) -> None:
    refused(write(tmp_path, tensors=(tensor("odd", 1 << 61, 2),)), "odd has the shape [2, 2305843009213693952]")
    refused(write(tmp_path, tensors=(tensor("odd", (1 << 62) - 1),)), "cut short: odd should end at byte")
    assert read(write(tmp_path, tensors=(tensor("one", 1),))).tensors["one"].nbytes == 4


def test_the_last_tensor_may_end_with_the_file(tmp_path: Path) -> None:
    assert read(write(tmp_path, data=DATA[:100])).tensors.keys() == {"norm", "matrix"}
    refused(write(tmp_path, data=DATA[:99]), "cut short: matrix should end at byte")


@pytest.mark.parametrize("alignment", [1, 2, 64])
def test_tensors_begin_at_multiples_of_the_alignment(tmp_path: Path, alignment: int) -> None:
    pairs = (*PAIRS, pair("general.alignment", UINT32, struct.pack("<I", alignment)))
    at = max(32, alignment)
    path = write(tmp_path, pairs, (tensor("norm", 8), tensor("other", 8, at=at)), data=b"")
    header = path.read_bytes().rstrip(b"\0")
    header += bytes(len(b"".join((*pairs, tensor("norm", 8), tensor("other", 8, at=at)))) + 24 - len(header))
    path.write_bytes(header + bytes(-len(header) % alignment) + DATA)
    found = read(path).tensors
    assert [path.read_bytes()[one.start] for one in found.values()] == [0, at]


def test_a_number_that_is_none_is_the_default(tmp_path: Path) -> None:
    more = (pair("llama.none", ARRAY, array(UINT32, 0, b"")), pair("llama.word", STRING, text("x")))
    header = read(write(tmp_path, (*PAIRS, *more)))
    assert (header.number("none", 5), header.number("word", 5), header.number("absent")) == (5, 5, 0)
    assert (header.number("heads"), header.number("epsilon")) == (8, 0.5)


def test_a_header_that_is_planned_has_sizes_and_no_fingerprint(tmp_path: Path) -> None:
    one = GgufTensor("a", (2, 3), "F32", 0, 24)
    header = GgufHeader.of(tmp_path / "m.gguf", {"general.architecture": "llama"}, {"a": one, "b": one})
    assert (header.path, header.size, header.architecture) == (tmp_path / "m.gguf", 48, "llama")
    assert (header.fingerprint(), header.tensors.keys()) == ("", {"a", "b"})


def test_a_fingerprint_stays_what_it_was(tmp_path: Path) -> None:
    assert (
        read(write(tmp_path)).fingerprint() == "d452d53fd9d97bdfaee412f398189298"
    )  # what is kept on disk is found by it


def test_strings_are_read_one_after_another() -> None:
    assert [*GgufStrings(2, text("ab") + text(""))] == [b"ab", b""]
