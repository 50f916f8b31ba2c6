"""What `chatbridge model convert` makes of Meta's form is what transformers wants: weights, settings, tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from chatbridge.cli.model.convert import convert

from .conftest import LLAMA, Load, greedy, recorded

TOLERANCE = 2e-4


@pytest.mark.parametrize("name", ["meta-1shard", "meta-2shard"])
def test_metas_form_becomes_a_folder_that_computes_and_encodes_as_recorded(
    tmp_path: Path, reference: dict[str, np.ndarray], model_of: Load, name: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(LLAMA / name, source / name)
    shutil.copy(LLAMA / "tokenizer.model", source)
    model = model_of(convert(source / name, tmp_path / "hf", "hf", {}))
    ids = reference["p0.input_ids"][0].tolist()
    state = model.new_state()
    np.testing.assert_allclose(model.logits(state, ids), reference["hf.p0.logits"][0], rtol=0, atol=TOLERANCE)
    state.release()
    meta = recorded(LLAMA / "reference_meta_1shard.json")["greedy_single"]["ids"]
    assert greedy(model, ids, len(meta) - len(ids)) == meta[len(ids) :]
    theirs = model_of(LLAMA / "hf")
    assert model.info.bos == theirs.info.bos
    assert model.info.eos == theirs.info.eos
    for case in json.loads((LLAMA / "tokenizer_cases.json").read_text(encoding="utf-8"))["llama"]:
        assert model.tokenizer.encode(case["text"], start=True) == theirs.tokenizer.encode(case["text"], start=True)
