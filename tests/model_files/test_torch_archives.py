"""Zip archives and rows of pickles that torch writes: where their parts lie, and where they can't."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from chatbridge import ModelLoadError, check_model_file, read_tensors
from chatbridge.model_files import torch_files
from chatbridge.testing import fixtures

from .test_torch_files import packed, refused
from .writers import write_old_torch, write_torch

SHAPES = {"a": (2, 3), "b": (3,)}


def test_an_archive_longer_than_its_tail_is_read(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "m.bin", {"a": (100, 1000), "b": (3,)})
    assert read_tensors(path).tensors["b"].nbytes == 6
    whole = path.read_bytes()
    comment = bytes(0xFFFF)
    path.write_bytes(whole[:-2] + struct.pack("<H", len(comment)) + comment)
    check_model_file(path)
    assert read_tensors(path).tensors.keys() == {"a", "b"}


def test_half_of_an_archive_whose_entries_are_padded_says_what_the_whole_has(tmp_path: Path) -> None:
    whole = (fixtures() / "llama" / "meta-1shard" / "consolidated.00.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "m.pth", f"{len(whole) // 2:,} bytes are there, and its tensors alone take 336,")


def test_half_of_an_archive_with_another_first_entry_is_told_without_numbers(tmp_path: Path) -> None:
    whole = packed(tmp_path / "m.bin", "m/x/data.pkl.txt", "m/data.pkl")
    for size in (200, 40, 28, 20):
        (tmp_path / "m.bin").write_bytes(whole[:size])
        refused(tmp_path / "m.bin", f"{size} bytes are there, and its end is missing")


def test_the_wide_end_of_an_archive_has_its_own_mark(tmp_path: Path) -> None:
    whole = (fixtures() / "llama" / "meta-1shard" / "consolidated.00.pth").read_bytes()
    at = whole.rindex(b"PK\6\6")
    (tmp_path / "m.pth").write_bytes(whole[:at] + b"PK\6\5" + whole[at + 4 :])
    refused(tmp_path / "m.pth", "its end is not where it says")


def test_a_table_of_contents_and_names_may_have_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_torch(tmp_path / "m.bin", SHAPES)
    whole = path.read_bytes()
    (table,) = struct.unpack("<I", whole[-10:-6])
    with zipfile.ZipFile(path) as archive:
        names = archive.getinfo("m/data.pkl").file_size
    for bound, most, words in (
        ("MAX_DIRECTORY", table, f"its table of contents has {table:,} bytes; {table - 1:,} are the most"),
        ("MAX_PICKLE", names, f"its names and shapes take {names:,} bytes; {names - 1:,} are the most"),
        ("MAX_TENSORS", 4, "4 entries with 4 names"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(torch_files, bound, most)
            assert read_tensors(path).tensors.keys() == SHAPES.keys()
            patch.setattr(torch_files, bound, most - 1)
            refused(path, words)


@pytest.mark.parametrize("claimed", [1 << 62, 1 << 63, (1 << 64) - 1])
def test_an_entry_that_lies_where_no_file_reaches_is_told(tmp_path: Path, claimed: int) -> None:
    path = tmp_path / "m.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info := zipfile.ZipInfo("m/data.pkl"), b"\x80\x02}.")
        info.extra = struct.pack("<HHQ", 1, 8, claimed)  # for the table of contents alone
    whole = bytearray(path.read_bytes())
    at = whole.rindex(b"PK\1\2")
    whole[at + 42 : at + 46] = b"\xff" * 4
    path.write_bytes(whole)
    refused(path, "m/data.pkl is not where the table of contents says")


@pytest.mark.parametrize(("at", "value"), [(8, 1), (10, 8)])
def test_an_entry_that_is_encrypted_or_compressed_is_told(tmp_path: Path, at: int, value: int) -> None:
    path = write_torch(tmp_path / "m.bin", {})
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"PK\1\2") + at] = value
    path.write_bytes(whole)
    refused(path, "m/data.pkl is compressed or encrypted")


def test_an_entry_that_begins_or_ends_elsewhere_is_told(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "m.bin", {})
    whole = path.read_bytes()
    at = whole.index(b"PK\1\2")
    for place, value, words in (
        (at + 42, 1, "m/data.pkl is not where the table of contents says"),
        (at + 42, len(whole) - 29, "m/data.pkl is not where the table of contents says"),
        (at + 24, len(whole), "m/data.pkl should end at byte"),
    ):
        changed = bytearray(whole)
        changed[place : place + 4] = struct.pack("<I", value)
        if place == at + 24:
            changed[at + 20 : at + 24] = changed[at + 24 : at + 28]
        path.write_bytes(changed)
        refused(path, words)


def test_an_old_file_of_another_protocol_is_told(tmp_path: Path) -> None:
    whole = write_old_torch(tmp_path / "m.bin", SHAPES).read_bytes()
    (tmp_path / "m.bin").write_bytes(whole.replace(b"M" + struct.pack("<H", 1001), b"M" + struct.pack("<H", 1002)))
    refused(tmp_path / "m.bin", "this is a file of a torch that is not known; save it anew with torch.save")


def test_an_old_file_that_ends_one_byte_early_is_half_of_one(tmp_path: Path) -> None:
    path = write_old_torch(tmp_path / "m.bin", SHAPES)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelLoadError, match="only a part of the file was downloaded"):
        read_tensors(path)
