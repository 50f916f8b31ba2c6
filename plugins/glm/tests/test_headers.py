"""Headers of torch's files, as the core reads them without torch, are what torch itself reads."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import _weights_only_unpickler as unpickler

from chatbridge import read_tensors

TYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16,
)  # fmt: skip


def tensors() -> dict[str, torch.Tensor]:
    """Tensors of all types, and ones that lie in their storage in every way."""
    row = torch.arange(60, dtype=torch.float32)
    views = {"turned": row.view(6, 10).t(), "later": row[10:20], "each third": row[::3], "whole": row}
    wide = torch.ones(1, 5).expand(4, 5)
    others = {"wide": wide, "none": torch.empty(0, 3), "one": torch.tensor(3.0), "p": torch.nn.Parameter(row[:4])}
    return OrderedDict({**{str(kind): torch.ones(3, 2).to(kind) for kind in TYPES}, **views, **others})


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize("zipped", [True, False])
def test_names_shapes_types_and_places_are_torchs(tmp_path: Path, zipped: bool) -> None:
    path, wanted = tmp_path / "m.bin", tensors()
    torch.save(wanted, path, _use_new_zipfile_serialization=zipped)
    found, data = read_tensors(path).tensors, path.read_bytes()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        info = found[name]
        assert (info.shape, f"torch.{info.dtype}", info.nbytes) == (
            tuple(tensor.shape),
            str(tensor.dtype),
            tensor.nbytes,
        )
        if tensor.is_contiguous():
            assert (info.strides, data[info.start : info.start + info.nbytes]) == ((), raw(tensor)), name
        else:
            assert info.strides == tensor.stride(), name


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_a_training_are_read_by_groups(tmp_path: Path, zipped: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    written: dict[str, Any] = {**states, "epoch": 3, "big": 1 << 70}
    torch.save(written, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "m.pt")
    assert found.groups.keys() == {"model"}
    assert found.groups["model"].keys() == model.state_dict().keys()
    assert (found.values, found.foreign) == ({"epoch": 3, "big": 1 << 70}, ())


def test_what_torch_takes_from_a_file_of_weights_is_no_code(tmp_path: Path) -> None:
    names = sorted(unpickler._get_allowed_globals())
    assert len(names) > 100
    named = b"".join("c{}\n{}\n".format(*name.rsplit(".", 1)).encode() for name in names)
    with zipfile.ZipFile(tmp_path / "m.bin", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}X\x01\0\0\0x(" + named + b"ts.")
    assert read_tensors(tmp_path / "m.bin").foreign == ()
