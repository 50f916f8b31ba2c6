"""The header of a safetensors file is read up to each of its bounds."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from chatbridge import ModelLoadError, TensorInfo, read_tensors
from chatbridge.model_files import safetensors

from .writers import write_safetensors


def write(folder: Path, header: object, data: int = 0) -> Path:
    raw = json.dumps(header).encode()
    (folder / "m.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(data))
    return folder / "m.safetensors"


def entry(shape: list[int], first: int, last: int, dtype: str = "F16") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def refused(path: Path, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        read_tensors(path)


def test_a_header_has_so_many_bytes_and_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"a": (2,), "b": (3,)}, notes={"x": "y"})
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    for bound, most, words in (
        ("MAX_HEADER", length, f"it should have {length} bytes, and {length - 1} are the most"),
        ("MAX_TENSORS", 2, "it names 2 tensors, and 1 are the most"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(safetensors, bound, most)
            assert len(read_tensors(path).tensors) == 2
            patch.setattr(safetensors, bound, most - 1)
            refused(path, words)


def test_names_and_sizes_have_their_bounds(tmp_path: Path) -> None:
    assert list(read_tensors(write(tmp_path, {"n" * 1024: entry([2], 0, 4)}, 4)).tensors) == ["n" * 1024]
    refused(write(tmp_path, {"n" * 1025: entry([2], 0, 4)}, 4), "a name has 1,025 characters")
    refused(write(tmp_path, {"n\ud800": entry([2], 0, 4)}, 4), "surrogates not allowed")
    assert read_tensors(write(tmp_path, {"a": entry([1] * 16, 0, 2)}, 2)).tensors["a"].shape == (1,) * 16
    refused(write(tmp_path, {"a": entry([1] * 17, 0, 2)}, 2), "a lies at 0:2 and has 17 sizes")
    refused(write(tmp_path, {"a": entry([1], 2, 0)}, 2), "a lies at 2:0 and has 1 sizes")
    refused(write(tmp_path, {"a": entry([1], -1, 1)}, 2), "a lies at -1:1 and has 1 sizes")
    found = read_tensors(write(tmp_path, {"a": entry([2], 0, 3, "NEW"), "b": entry([], 3, 5)}, 5)).tensors
    assert found == {"a": TensorInfo((2,), "NEW", 3), "b": TensorInfo((), "float16", 2)}


def test_tensors_fill_the_file_to_the_byte(tmp_path: Path) -> None:
    two = {"a": entry([2], 0, 4), "b": entry([1], 4, 6)}
    assert len(read_tensors(write(tmp_path, two, 6)).tensors) == 2
    refused(write(tmp_path, two, 5), "only a part of the file was downloaded: .* of .* bytes are there")
    refused(write(tmp_path, two, 7), "it promises .* bytes, and the file has")
    refused(write(tmp_path, {"a": entry([2], 0, 4), "b": entry([1], 5, 7)}, 7), "its tensors overlap, or leave gaps")
    whole = write(tmp_path, two, 6).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    for size in (8, 9, 8 + length - 1):
        (tmp_path / "m.safetensors").write_bytes(whole[:size])
        refused(tmp_path / "m.safetensors", f"{size} bytes are there, and its beginning alone has {8 + length}")
    (tmp_path / "m.safetensors").write_bytes(whole[:8] + b"[" + whole[9:])
    refused(tmp_path / "m.safetensors", "this is no safetensors file, or its header is damaged")


def test_a_header_denser_than_tensors_are_is_not_parsed(tmp_path: Path) -> None:
    raw = b'{"a":' + b"[" * 19 + b"]" * 19 + b"}"
    for length, words in ((63, "it holds something else than tensors"), (64, "list indices must be integers")):
        (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", length) + raw.ljust(length))
        refused(tmp_path / "m.safetensors", words)
