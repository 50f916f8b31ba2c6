"""Files from before GGUF: each magic and version is read to its last tensor, and what is none of LLaMA's is named."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from chatbridge import ModelLoadError
from chatbridge.model_files import ggml
from chatbridge.model_files.ggml import read_ggml, read_ggml_vocabulary

from .writers import GGML, write_ggml


@pytest.mark.parametrize("kind", GGML)
def test_every_version_is_read_to_its_end(tmp_path: Path, kind: str) -> None:
    path = write_ggml(tmp_path / "ggml-model-q4_0.bin", kind, vocabulary=9, layers=3)
    found = read_ggml(path)
    assert (found.kind, found.program, found.size) == (kind, "", path.stat().st_size)
    assert (found.vocabulary, found.width, found.heads, found.layers) == (9, 64, 4, 3)
    assert found.tensors["tok_embeddings.weight"].shape == (9, 64)
    assert len(found.tensors) == 8
    blocks = (9 * 64 + 3 * 64 * 64) // 32
    assert found.types == {"Q4_0": blocks * (18 if kind == "ggjt 3" else 20), "F32": 4 * 64 * 4}


@pytest.mark.parametrize("kind", GGML)
def test_half_of_a_file_is_told(tmp_path: Path, kind: str) -> None:
    path = write_ggml(tmp_path / "m.bin", kind)
    whole = path.read_bytes()
    for size in (6, 20, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelLoadError, match=f"{size:,} bytes are there, and .*; download it again"):
            read_ggml(path)


@pytest.mark.parametrize(
    ("begin", "program"),
    [
        (b"fmgg" + struct.pack("<I", 100), "rwkv.cpp"),
        (b"fmgg" + struct.pack("<I", 101), "rwkv.cpp"),
        (b"ggml" + bytes(40), "chatglm.cpp"),
        (b"algg" + struct.pack("<I", 1), "finetune"),
        (b"lmgg" + struct.pack("<7i", 50400, 4096, 16, 28, 64, 2, 0), "GPT-J"),
    ],
)
def test_other_programs_of_the_same_magic_are_named(tmp_path: Path, begin: bytes, program: str) -> None:
    (tmp_path / "m.bin").write_bytes(begin + bytes(100))
    assert program in read_ggml(tmp_path / "m.bin").program


@pytest.mark.parametrize(
    "sizes",
    [
        (0, 64, 256, 4, 2, 16, 2),
        ((1 << 21) + 1, 64, 256, 4, 2, 16, 2),
        (8, 64, 256, 0, 2, 16, 2),
        (8, 64, 256, 65, 2, 0, 2),
        (8, 1 << 20, 256, 4, 2, 1 << 18, 2),
        (8, 64, 256, 4, 0, 16, 2),
        (8, 64, 256, 4, 10_000, 16, 2),
        (8, 66, 256, 4, 2, 16, 2),
        (8, 64, 256, 4, 2, 8, 2),
    ],
)
def test_sizes_that_no_llama_has_are_another_programs(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    (tmp_path / "m.bin").write_bytes(b"lmgg" + struct.pack("<7i", *sizes) + bytes(100))
    assert "GPT-J" in read_ggml(tmp_path / "m.bin").program


def test_the_smallest_llama_is_one(tmp_path: Path) -> None:
    found = read_ggml(write_ggml(tmp_path / "m.bin", "ggjt 3", vocabulary=1, width=32, heads=1, layers=1))
    assert (found.program, found.vocabulary, found.width, found.heads, found.layers) == ("", 1, 32, 1, 1)


def entry(shape: tuple[int, ...], name: bytes, number: int = 0) -> bytes:
    """A tensor's header, for the end of a file of the first kind."""
    return struct.pack("<3i", len(shape), len(name), number) + struct.pack(f"<{len(shape)}i", *shape[::-1]) + name


@pytest.mark.parametrize(
    "added",
    [entry((3,), b"x") + bytes(12), entry((1, 1, 1, 3), b"long name") + bytes(12), entry((2, 32), b"q", 2) + bytes(40)],
)
def test_whatever_a_tensor_may_be_is_read(tmp_path: Path, added: bytes) -> None:
    path = write_ggml(tmp_path / "m.bin", "ggml")
    before = read_ggml(path)
    path.write_bytes(path.read_bytes() + added)
    after = read_ggml(path)
    assert len(after.tensors) == len(before.tensors) + 1
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelLoadError, match="only a part of the file"):
        read_ggml(path)


@pytest.mark.parametrize(
    ("added", "told"),
    [
        (entry((), b"x"), "tensor 6 has 0 sizes"),
        (entry((1, 1, 1, 1, 1), b"x"), "tensor 6 has 5 sizes"),
        (entry((3,), b""), "a name of 0 bytes"),
        (entry((3,), b"x", 9), "the type 9"),
        (entry((0,), b"x"), r"x has the shape \[0\]"),
        (entry((33,), b"x", 2), r"x has the shape \[33\] and the type Q4_0"),
        (entry((3,), b"norm.weight") + bytes(12), "two tensors are called norm.weight"),
    ],
)
def test_a_tensor_that_can_not_be_is_damage(tmp_path: Path, added: bytes, told: str) -> None:
    path = write_ggml(tmp_path / "m.bin", "ggml")
    path.write_bytes(path.read_bytes() + added + bytes(100))
    with pytest.raises(ModelLoadError, match=f"the file is damaged: .*{told}"):
        read_ggml(path)


def test_sizes_that_are_only_claimed_take_no_memory(tmp_path: Path) -> None:
    path = write_ggml(tmp_path / "m.bin", "ggjt 3")
    whole = bytearray(path.read_bytes())
    whole[8:12] = struct.pack("<i", 2_000_000)
    path.write_bytes(whole)
    with pytest.raises(ModelLoadError, match="bytes"):
        read_ggml(path)
    whole[8:12] = struct.pack("<i", 8)
    whole[36:40] = struct.pack("<I", 1 << 31)
    path.write_bytes(whole)
    with pytest.raises(ModelLoadError, match="token 0 has 2,147,483,648 bytes"):
        read_ggml(path)


@pytest.mark.parametrize(("magic", "version"), [(b"tjgg", 9), (b"tjgg", 4), (b"tjgg", 0), (b"fmgg", 2), (b"fmgg", 0)])
def test_a_version_that_never_was(tmp_path: Path, magic: bytes, version: int) -> None:
    (tmp_path / "m.bin").write_bytes(magic + struct.pack("<I", version) + bytes(100))
    with pytest.raises(ModelLoadError, match=f"its version is {version}; there were 1 of ggmf, and 1 to 3 of ggjt"):
        read_ggml(tmp_path / "m.bin")


def test_names_of_tokens_and_tensors_have_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ggml(tmp_path / "m.bin", "ggml")
    path.write_bytes(path.read_bytes() + entry((3,), b"n" * 1024) + bytes(12))
    assert "n" * 1024 in read_ggml(path).tensors
    monkeypatch.setattr(ggml, "MAX_TENSORS", 7)
    assert len(read_ggml(path).tensors) == 7
    monkeypatch.setattr(ggml, "MAX_TENSORS", 6)
    with pytest.raises(ModelLoadError, match="tensor 6 has 1 sizes and a name of 1024 bytes"):
        read_ggml(path)
    path.write_bytes(write_ggml(path, "ggml").read_bytes() + entry((3,), b"n" * 1025) + bytes(12))
    with pytest.raises(ModelLoadError, match="a name of 1025 bytes"):
        read_ggml(path)
    sizes = struct.pack("<7i", 1, 64, 256, 4, 2, 16, 2)
    for length, words in ((1024, "its header is cut short"), (1025, "token 0 has 1,025 bytes")):
        path.write_bytes(b"lmgg" + sizes + struct.pack("<I", length))
        with pytest.raises(ModelLoadError, match=words):
            read_ggml(path)


@pytest.mark.parametrize("kind", GGML)
def test_texts_scores_and_the_type_of_a_file_are_read(tmp_path: Path, kind: str) -> None:
    path = write_ggml(tmp_path / "m.bin", kind, vocabulary=3)
    whole = path.read_bytes()
    at = 4 + 4 * (kind != "ggml") + 24
    path.write_bytes(whole[:at] + struct.pack("<i", 2003) + whole[at + 4 :])
    found = read_ggml(path)
    assert (found.file_type, found.version) == (3, int(kind[-1]) if "ggjt" in kind else 0)
    scores = [0.0] * 3 if kind == "ggml" else [0.0, -1.0, -2.0]
    assert read_ggml_vocabulary(found) == list(zip([b"t0", b"t1", b"t2"], scores, strict=True))
    first = found.tensors["tok_embeddings.weight"]
    assert first.start % 32 == 0 or "ggjt" not in kind
    assert path.read_bytes()[first.start - 64 : first.start].rstrip(b"\0").endswith(b"tok_embeddings.weight")
