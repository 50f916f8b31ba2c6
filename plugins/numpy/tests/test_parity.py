"""The same numbers as Meta's and Hugging Face's code gave for the same weights, and exact reading of each type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatbridge_numpy.model import NumpyModel, load_model
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from chatbridge.testing import (
    Arrays,
    PeftAdapter,
    greedy_ids,
    llama_metadata,
    sentencepiece_metadata,
    write_gguf,
    write_lora,
)

from .conftest import recorded_adapter, recorded_sizes
from .slow import SlowLlama

TOLERANCE = 2e-4
"""Of logits in float32, as recorded with them: Meta's and Hugging Face's code differ by 1.4e-5."""


def logits(model: NumpyModel, ids: Any) -> np.ndarray:
    return model.logits(model.new_state(), [int(i) for i in ids])


@pytest.mark.parametrize("prompt", ["p0", "p1"])
@pytest.mark.parametrize("source", ["", "hf."])
def test_logits_are_those_of_the_original_code(
    meta_model: NumpyModel, reference: dict[str, np.ndarray], source: str, prompt: str
) -> None:
    ids = reference[f"{prompt}.input_ids"]
    np.testing.assert_allclose(logits(meta_model, ids), reference[f"{source}{prompt}.logits"], atol=TOLERANCE)


@pytest.mark.parametrize("prompt", ["p0", "p1"])
def test_token_by_token_gives_what_metas_cache_gave(
    meta_model: NumpyModel, reference: dict[str, np.ndarray], prompt: str
) -> None:
    ids = [int(i) for i in reference[f"{prompt}.input_ids"]]
    state = meta_model.new_state()
    steps = [meta_model.logits(state, part)[-1] for part in (ids[:4], *([i] for i in ids[4:]))]
    np.testing.assert_allclose(steps, reference[f"{prompt}.incremental_logits"], atol=TOLERANCE)
    assert state.length == len(ids)


def test_greedy_answers_are_the_recorded_ones(meta_model: NumpyModel, reference: dict[str, np.ndarray]) -> None:
    alone = [int(i) for i in reference["hf.p0.greedy"]]
    padded = [[int(i) for i in row] for row in reference["hf.batch.greedy"]]
    batch = [row[row.index(meta_model.info.bos) :] for row in padded]  # Hugging Face pads on the left
    prompts = [reference[f"{name}.input_ids"].tolist() for name in ("p0", "p1")]
    answers = greedy_ids(meta_model, prompts, max_tokens=len(alone) - len(prompts[0]))
    assert [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)] == batch
    assert prompts[0] + answers[0] == alone


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_each_type_gives_the_numbers_of_its_dequantised_weights(
    tmp_path: Path, meta_arrays: Arrays, meta_metadata: dict[str, Any], reference: dict[str, np.ndarray], kind: str
) -> None:
    packed = load_model(write_gguf(tmp_path / "packed.gguf", meta_metadata, meta_arrays, kind))
    unpacked = {name: dequantised(array, kind) if array.ndim > 1 else array for name, array in meta_arrays.items()}
    plain = load_model(write_gguf(tmp_path / "plain.gguf", meta_metadata, unpacked))
    ids = reference["p1.input_ids"]
    assert packed.info.details["quantisation"] == kind.lower()
    assert (logits(packed, ids) == logits(plain, ids)).all()
    slow = SlowLlama(unpacked, heads=recorded_sizes()["heads"])
    np.testing.assert_allclose(logits(packed, ids), slow.logits(ids), atol=TOLERANCE)


def dequantised(array: np.ndarray, kind: str) -> np.ndarray:
    """What is left of `array` in a file of this kind, by the layout that ggml's ggml-common.h gives."""
    packed = np.ascontiguousarray(quantize(array.astype(np.float32), GGMLQuantizationType[kind]))
    if kind == "F16":
        return packed.astype(np.float32)
    numbers = ("low", "u1", 16) if kind == "Q4_0" else ("whole", "i1", 32)
    blocks = packed.reshape(-1).view([("scale", "<f2"), numbers])
    if kind == "Q4_0":  # two numbers a byte, of 0 to 15, the first half in the low bits
        whole = np.concatenate([blocks["low"] & 15, blocks["low"] >> 4], axis=1).astype(np.float32) - 8
    else:
        whole = blocks["whole"].astype(np.float32)
    return (whole * blocks["scale"][:, None].astype(np.float32)).reshape(array.shape)


@pytest.mark.parametrize("name", ["lora.p0.logits_merged", "lora16.p0.logits"])
def test_alpaca_adapters_give_the_recorded_logits(
    tmp_path: Path, meta_path: Path, reference: dict[str, np.ndarray], name: str
) -> None:
    folder = "alpaca-lora-r16-qkvo" if name.startswith("lora16") else "alpaca-lora"
    model = load_model(meta_path, lora=adapter(tmp_path, recorded_adapter(folder)))
    np.testing.assert_allclose(logits(model, reference["p0.input_ids"]), reference[name], atol=TOLERANCE)


def test_an_adapted_model_answers_as_recorded(
    tmp_path: Path, meta_path: Path, meta_model: NumpyModel, reference: dict[str, np.ndarray]
) -> None:
    alpaca = recorded_adapter("alpaca-lora")
    model = load_model(meta_path, lora=adapter(tmp_path, alpaca))
    prompt = reference["p0.input_ids"].tolist()
    recorded = reference["lora.p0.greedy"].tolist()
    assert prompt + greedy_ids(model, [prompt], max_tokens=len(recorded) - len(prompt))[0] == recorded
    assert f"rank {alpaca.rank}, alpha {alpaca.alpha}" in model.info.details["lora"]
    assert model.info.fingerprint != meta_model.info.fingerprint


def test_chinese_llama_gives_the_recorded_logits(
    tmp_path: Path, meta_arrays: Arrays, reference: dict[str, np.ndarray], chinese: Any
) -> None:
    # Seven adapted matrices a layer; the embedding and the output are replaced, by more rows.
    recorded = recorded_adapter("chinese-llama-lora")
    metadata = llama_metadata(**recorded_sizes()) | sentencepiece_metadata(chinese)
    path = write_gguf(tmp_path / "chinese.gguf", metadata, meta_arrays | recorded.replaced)
    model = load_model(path, lora=adapter(tmp_path, recorded))
    ids = reference["chinese_llama.input_ids"].tolist()
    np.testing.assert_allclose(logits(model, ids), reference["chinese_llama.logits_unmerged_fp32"], atol=TOLERANCE)
    greedily = reference["chinese_llama.greedy"].tolist()
    assert ids + greedy_ids(model, [ids], max_tokens=len(greedily) - len(ids))[0] == greedily


def adapter(folder: Path, recorded: PeftAdapter) -> Path:
    return write_lora(folder / "adapter.gguf", recorded.pairs, recorded.alpha)
