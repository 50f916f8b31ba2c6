"""Headers of GGUF files: what is right is read as it stands, and what is not is refused in words."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import GgufHeader, GgufStrings, ModelLoadError

UINT8, UINT32, FLOAT, BOOL, STRING, ARRAY = 0, 4, 6, 7, 8, 9
F32, Q8_0 = 0, 8


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def array(kind: int, count: int, raw: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + raw


def tensor(name: str, *dimensions: int, kind: int = F32, at: int = 0) -> bytes:
    """`dimensions` as the file has them: columns first."""
    sizes = struct.pack(f"<{len(dimensions)}Q", *dimensions)
    return text(name) + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, at)


PAIRS = (
    pair("general.architecture", STRING, text("llama")),
    pair("llama.block_count", UINT32, struct.pack("<I", 2)),
    pair("llama.heads", ARRAY, array(UINT32, 3, struct.pack("<3I", 4, 8, 2))),
    pair("llama.epsilon", FLOAT, struct.pack("<f", 0.5)),
    pair("tokenizer.ggml.tokens", ARRAY, array(STRING, 3, text("a") + text("") + text("ü"))),
    pair("tokenizer.ggml.add_bos_token", BOOL, b"\1"),
)
TENSORS = (tensor("norm", 8), tensor("matrix", 32, 2, kind=Q8_0, at=32))
DATA = bytes(range(200))


def write(
    folder: Path, pairs: tuple[bytes, ...] = PAIRS, tensors: tuple[bytes, ...] = TENSORS, data: bytes = DATA
) -> Path:
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    path = folder / "file.gguf"
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        GgufHeader(path, reader="this test")
    for word in (path.name, *words):
        assert word in str(caught.value)


def test_everything_in_a_header_is_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    header = GgufHeader(path, reader="this test")
    assert header.architecture == "llama"
    assert header.size == path.stat().st_size
    assert (header.number("block_count"), header.number("heads"), header.number("absent", 7)) == (2, 8, 7)
    assert header.metadata["llama.epsilon"] == 0.5
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    np.testing.assert_array_equal(header.metadata["llama.heads"], [4, 8, 2])
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, GgufStrings)
    assert (len(tokens), list(tokens)) == (3, [b"a", b"", "ü".encode()])
    norm, matrix = header.tensors.values()
    assert (norm.name, norm.shape, norm.kind, norm.size, norm.nbytes) == ("norm", (8,), "F32", 8, 32)
    assert (matrix.name, matrix.shape, matrix.kind, matrix.size, matrix.nbytes) == ("matrix", (2, 32), "Q8_0", 64, 68)
    assert path.read_bytes()[norm.start : norm.start + 3] == DATA[:3]
    assert path.read_bytes()[matrix.start : matrix.start + 3] == DATA[32:35]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (PAIRS[1], "the key 'llama.block_count' comes twice"),
        (pair("general.alignment", UINT32, struct.pack("<I", 0)), "general.alignment is 0"),
        (pair("general.alignment", UINT32, struct.pack("<I", 48)), "general.alignment is 48"),
        (pair("general.alignment", STRING, text("32")), "general.alignment is '32'"),
        (pair("llama.odd", BOOL, b"\2"), "a yes or no before byte"),
        (pair("llama.odd", 13, b""), "a value of type 13"),
        (pair("llama.odd", ARRAY, array(ARRAY, 1, array(UINT8, 1, b"\1"))), "an array of arrays"),
        (pair("llama.odd", ARRAY, array(13, 1, b"\1")), "an array of type 13"),
        (pair("llama.odd", ARRAY, array(UINT32, 1 << 60, b"")), "entries should follow byte"),
        (pair("llama.odd", ARRAY, array(STRING, 2, text("a"))), "damaged"),
        (pair("llama.odd", STRING, struct.pack("<Q", 2) + b"\xff\xfe"), "is not UTF-8"),
        (pair("llama.odd", STRING, struct.pack("<Q", 1 << 40)), "it ends inside the header"),
    ],
)
def test_metadata_that_contradict_themselves(tmp_path: Path, more: bytes, words: str) -> None:
    refused(write(tmp_path, (*PAIRS, more)), words, "download or convert it again")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (tensor("norm", 8), "two tensors have the same name"),
        (tensor("odd", 8, at=40), "odd does not begin at a multiple of 32 bytes"),
        (tensor("odd", 33, kind=Q8_0), "odd has rows of 33, and Q8_0 packs 32 together"),
        (tensor("odd"), "odd has 0 dimensions"),
        (tensor("odd", 1, 1, 1, 1, 1), "odd has 5 dimensions"),
        (tensor("odd", 8, 0), "odd has the shape [0, 8]"),
        (tensor("odd", 1 << 40, 1 << 40), "odd has the shape"),
        (tensor("odd", 64), "cut short: odd should end at byte"),
        (tensor("odd", 8, at=1 << 63), "cut short: odd should end at byte"),
    ],
)
def test_tensors_that_cannot_be(tmp_path: Path, more: bytes, words: str) -> None:
    refused(write(tmp_path, tensors=(*TENSORS, more)), words)


def test_a_type_that_is_newer_than_the_reader_is_left_to_the_engine(tmp_path: Path) -> None:
    path = write(tmp_path, tensors=(*TENSORS, tensor("new", 8, kind=999, at=128)))
    tensors = GgufHeader(path, reader="this test").tensors
    found = tensors["new"]
    assert (found.kind, found.nbytes) == ("type 999", 0)
    assert found.start == tensors["norm"].start + 128


@pytest.mark.parametrize("at", [0, 32, 64])
def test_tensors_that_share_bytes_are_refused(tmp_path: Path, at: int) -> None:
    path = write(tmp_path, tensors=(*TENSORS, tensor("other", 8, at=at)))
    refused(path, "begins inside", "other")


def test_a_file_of_another_kind_is_told_by_whom(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"<!DOCTYPE html>" + bytes(100))
    refused(path, "no GGUF file; this test reads nothing else")


def test_wherever_a_file_is_cut_it_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, data=DATA[:100])
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        refused(path)


@settings(deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 1 << 10), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    path = write(tmp_path_factory.getbasetemp())
    whole = bytearray(path.read_bytes())
    for at, byte in damage:
        whole[at % len(whole)] = byte
    path.write_bytes(whole)
    with suppress(ModelLoadError):
        header = GgufHeader(path, reader="this test")
        assert all(one.start + one.nbytes <= header.size for one in header.tensors.values())


def test_files_that_differ_have_other_fingerprints(tmp_path: Path) -> None:
    first = GgufHeader(write(tmp_path), reader="this test").fingerprint()
    assert GgufHeader(write(tmp_path), reader="this test").fingerprint() == first
    found = {first}
    for changed in ({"data": DATA + b"\0"}, {"pairs": PAIRS[:-1]}, {"data": b"x" + DATA[1:]}, {"data": DATA[:40] * 5}):
        found.add(GgufHeader(write(tmp_path, **changed), reader="this test").fingerprint())
    assert len(found) == 5
