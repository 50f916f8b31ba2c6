"""Files from before GGUF: each magic and version is read to its last tensor, and what is none of LLaMA's is named."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from chatbridge import ModelLoadError
from chatbridge.model_files.ggml import read_ggml

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
        (b"fmgg" + struct.pack("<I", 101), "rwkv.cpp"),
        (b"ggml" + bytes(40), "chatglm.cpp"),
        (b"algg" + struct.pack("<I", 1), "finetune"),
        (b"lmgg" + struct.pack("<7i", 50400, 4096, 16, 28, 64, 2, 0), "GPT-J"),
    ],
)
def test_other_programs_of_the_same_magic_are_named(tmp_path: Path, begin: bytes, program: str) -> None:
    (tmp_path / "m.bin").write_bytes(begin + bytes(100))
    assert program in read_ggml(tmp_path / "m.bin").program


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


def test_a_version_that_never_was(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"tjgg" + struct.pack("<I", 9) + bytes(100))
    with pytest.raises(ModelLoadError, match="its version is 9; there were 1 of ggmf, and 1 to 3 of ggjt"):
        read_ggml(tmp_path / "m.bin")
