"""What the tests of merging share: the records of the original scripts, copies of models, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge import ModelLoadError
from chatbridge.model_tools.merging.merge import merge
from chatbridge.model_tools.merging.model_folders import open_model
from chatbridge.model_tools.merging.perplexity import logits
from chatbridge.model_tools.output import NewTensor, write_tensors
from chatbridge.model_tools.progress import Silent
from chatbridge.model_tools.safetensors_file import SafetensorsFile
from chatbridge.model_tools.torch_file import TorchFile
from chatbridge.testing import fixtures

LLAMA = fixtures() / "llama"
HF, META, META2 = LLAMA / "hf", LLAMA / "meta-1shard", LLAMA / "meta-2shard"
CHINESE_LLAMA, CHINESE_ALPACA = LLAMA / "chinese-llama-lora", LLAMA / "chinese-alpaca-lora"
RECORDED = np.load(LLAMA / "reference_hf.npz")
PROMPT = np.load(LLAMA / "reference_meta_1shard.npz")["p0.input_ids"][0].tolist()


def logits_of(folder: Path, ids: Sequence[int]) -> np.ndarray:
    with ExitStack() as files:
        model = open_model(folder, files)
        assert model.sizes is not None
        return logits(model.tensors, model.sizes, [ids], Silent())


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "chatbridge-report.json").read_text(encoding="utf-8"))
    return found


def step(folder: Path, name: str) -> dict[str, Any]:
    return next(one for one in report_of(folder)["steps"] if one["step"] == name)


def copied(folder: Path, target: Path, file: str = "", **keys: object) -> Path:
    """A copy of a folder, with some keys of one of its files set; None takes a key away."""
    shutil.copytree(folder, target)
    if file:
        found = json.loads((target / file).read_text(encoding="utf-8")) | keys
        kept = {key: value for key, value in found.items() if value is not None}
        (target / file).write_text(json.dumps(kept), encoding="utf-8")
    return target


def refused(base: Path, adapters: Sequence[Path], output: Path, form: Any = "hf", **options: Any) -> str:
    """What is said, when nothing may be made or left."""
    before = {*output.parent.iterdir()}
    with pytest.raises(ModelLoadError) as error:
        merge(base, adapters, output, form, **options)
    assert {*output.parent.iterdir()} == before
    return str(error.value)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    tensors = [
        NewTensor(name, one.shape, str(one.dtype), one.nbytes, lambda one=one: [one.tobytes()])
        for name, one in arrays.items()
    ]
    write_tensors(path, SafetensorsFile(tensors) if path.suffix == ".safetensors" else TorchFile(tensors), tensors, "")
