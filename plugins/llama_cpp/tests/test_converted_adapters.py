"""Adapters of PEFT's that `chatbridge model convert` made GGUF files of: the recorded logits, and those of a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.cli.model.convert import convert
from chatbridge.cli.model.merge import command as merge

from .conftest import EXACT, RECORDS, Load

TOLERANCE = 2e-4
ROUNDED = 2e-2
"""Where an adapter's numbers were rounded to 16 bits."""

Reference = dict[str, np.ndarray]


def logits(model: Any, ids: Any) -> np.ndarray:
    found: np.ndarray = model.logits(model.new_state(), [int(i) for i in ids])
    return found


def adapter(folder: Path, name: str, target: str = "f32") -> Path:
    return convert(RECORDS / name, folder / f"{name}-{target}.gguf", target, {"base": RECORDS / "hf"})


@pytest.mark.parametrize(("target", "tolerance"), [("f32", TOLERANCE), ("f16", ROUNDED)])
@pytest.mark.parametrize(
    ("name", "recorded"),
    [("alpaca-lora", "lora.p0.logits_merged"), ("alpaca-lora-r16-qkvo", "lora16.p0.logits")],
)
def test_adapters_give_the_recorded_logits(
    tmp_path: Path, reference: Reference, model_of: Load, name: str, recorded: str, target: str, tolerance: float
) -> None:
    base = convert(RECORDS / "hf", tmp_path / "base.gguf", "f32", {})
    model = model_of(base, **EXACT, lora=adapter(tmp_path, name, target))
    np.testing.assert_allclose(logits(model, reference["p0.input_ids"]), reference[recorded], atol=tolerance)


def test_an_adapter_that_is_put_on_changes_what_one_that_is_merged_does(
    tmp_path: Path, reference: Reference, model_of: Load
) -> None:
    with pytest.raises(SystemExit) as ended:
        merge([str(RECORDS / "hf"), str(RECORDS / "alpaca-lora"), "-o", str(tmp_path / "merged"), "--dtype", "float32"])
    assert ended.value.code == 0
    merged = model_of(convert(tmp_path / "merged", tmp_path / "merged.gguf", "f32", {}), **EXACT)
    base = convert(RECORDS / "meta-2shard", tmp_path / "base.gguf", "f32", {})
    put_on = model_of(base, **EXACT, lora=adapter(tmp_path, "alpaca-lora"))
    ids = reference["p1.input_ids"]
    np.testing.assert_allclose(logits(put_on, ids), logits(merged, ids), atol=TOLERANCE)
    assert np.abs(logits(put_on, ids) - reference["p1.logits"]).max() > 100 * TOLERANCE
