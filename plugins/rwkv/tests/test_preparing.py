"""What is made of each tensor for a strategy is what the rwkv package makes of it, bit for bit, for every version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from chatbridge_rwkv import memory
from chatbridge_rwkv.checkpoint import read
from chatbridge_rwkv.preparing import FIRST_NORM, VERSION, Form, Preparation, rescale_layer

from .conftest import V4, converted_by_the_package, there
from .weights import write_model


def preparation_for(path: Path, strategy: str) -> Preparation:
    checkpoint = read(path)
    return Preparation(
        checkpoint.version, checkpoint.heads, memory.slots_for(checkpoint, strategy), rescale_layer(strategy),
        any(name.endswith("time_faaaa") for name in checkpoint.tensors),
    )  # fmt: skip


def ours(path: Path, strategy: str) -> tuple[dict[str, Any], dict[str, Form]]:
    """What is made of a model's tensors, and what was told of that before."""
    preparation, tensors = preparation_for(path, strategy), torch.load(path)
    norm = [tensors.pop(name) for name in FIRST_NORM]
    found: dict[str, Any] = {}
    forms: dict[str, Form] = {}
    for name, tensor in tensors.items():
        forms |= {form.name: form for form in preparation.forms(name, tensor.shape)}
        found |= preparation.prepared(name, tensor, norm)
    return found, forms


def write(folder: Path, version: float) -> Path:
    return write_model(folder / "m.pth", version, layers=7, width=64, vocabulary=96)


@pytest.mark.parametrize("version", [4, 5, 5.1, 5.2, 6])
@pytest.mark.parametrize("strategy", ["cpu fp32i8", "cpu bf16 *2 -> cpu fp32i8 *3 -> cpu bf16i8", "cpu fp16i8"])
def test_it_is_what_the_package_makes(version: float, strategy: str, tmp_path: Path) -> None:
    path = write(tmp_path, version)
    expected = converted_by_the_package(path, strategy, tmp_path)
    assert expected.pop("_strategy") == strategy
    assert expected.pop("_rescale_layer") == rescale_layer(strategy)
    assert expected.pop("_version") == VERSION
    found, forms = ours(path, strategy)
    assert found.keys() == expected.keys() == forms.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].stride() == tensor.stride(), name
        assert torch.equal(found[name], tensor), name
        strides = () if tensor.is_contiguous() else tensor.stride()
        assert forms[name] == Form(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), strides)


def test_the_recorded_model_is_prepared_as_the_package_does(tmp_path: Path) -> None:
    path, strategy = there(V4), "cpu fp16i8 *4 -> cpu fp16"
    expected, (found, _) = converted_by_the_package(path, strategy, tmp_path), ours(path, strategy)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def test_the_packages_variable_says_when_it_rescales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RWKV_RESCALE_LAYER", raising=False)
    assert [rescale_layer(strategy) for strategy in ("cpu fp32", "cuda fp16i8 *3 -> cpu fp32")] == [0, 6]
    monkeypatch.setenv("RWKV_RESCALE_LAYER", "999")
    assert rescale_layer("cuda fp16") == int(os.environ["RWKV_RESCALE_LAYER"])
