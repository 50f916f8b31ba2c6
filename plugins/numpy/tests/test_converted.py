"""What `chatbridge model convert` makes of published models gives in the NumPy backend what the original code gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatbridge_numpy.model import load_model

from chatbridge.cli.model.convert import convert

from .conftest import RECORDS

TOLERANCE = 2e-4
"""Of logits in float32, as recorded with them: Meta's and Hugging Face's code differ by 1.4e-5."""


def logits(path: Path, ids: Any) -> np.ndarray:
    model = load_model(path)
    return model.logits(model.new_state(), [int(i) for i in ids])


@pytest.mark.parametrize(
    ("folder", "source"), [("meta-1shard", ""), ("meta-2shard", ""), ("hf", "hf.")], ids=["1 shard", "2 shards", "hf"]
)
def test_logits_are_those_of_the_original_code(
    tmp_path: Path, reference: dict[str, np.ndarray], folder: str, source: str
) -> None:
    made = convert(RECORDS / folder, tmp_path / "model.gguf", "f32", {})
    for prompt in ("p0", "p1"):
        found = logits(made, reference[f"{prompt}.input_ids"])
        np.testing.assert_allclose(found, reference[f"{source}{prompt}.logits"], atol=TOLERANCE)


def test_a_merged_chinese_model_in_two_parts_gives_the_recorded_logits(
    tmp_path: Path, reference: dict[str, np.ndarray]
) -> None:
    made = convert(RECORDS / "chinese-llama-merged-meta-2shard", tmp_path / "model.gguf", "f32", {})
    with np.load(RECORDS / "reference_hf.npz") as recorded:
        ids, expected = recorded["chinese_llama.input_ids"][0], recorded["chinese_llama.logits"][0]
    np.testing.assert_allclose(logits(made, ids), expected, atol=TOLERANCE)


@pytest.mark.parametrize("target", ["f16", "bf16", "q8_0"])
def test_smaller_types_give_nearly_the_same(tmp_path: Path, reference: dict[str, np.ndarray], target: str) -> None:
    made = convert(RECORDS / "hf", tmp_path / "model.gguf", target, {})
    found, expected = logits(made, reference["p1.input_ids"]), reference["hf.p1.logits"]
    np.testing.assert_allclose(found, expected, atol=1)
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.8
