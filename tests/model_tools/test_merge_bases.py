"""Merging into another base, by other settings, and what is refused in words."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.model_files.arrays import Weights
from chatbridge.model_files.sentencepiece_files import read_sentencepiece
from chatbridge.model_tools.matrices import floats
from chatbridge.model_tools.merging.lora import read_adapter
from chatbridge.model_tools.merging.merge import merge
from chatbridge.model_tools.merging.model_folders import open_model
from chatbridge.model_tools.merging.perplexity import SENTENCES, encode
from chatbridge.testing import fixtures
from tests.model_files.writers import write_adapter, write_hub_llama

from .merging import (
    CHINESE_ALPACA,
    CHINESE_LLAMA,
    HF,
    LLAMA,
    META,
    META2,
    copied,
    refused,
    step,
    write_arrays,
)


def knowing_base(folder: Path) -> Path:
    """A model that has learnt by heart which id comes after which in the three sentences, and nothing more."""
    copied(HF, folder)
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    with ExitStack() as files:
        known = {name: floats(one, 0, one.shape[0]) for name, one in open_model(HF, files).tensors.items()}
    for name in known:
        if "o_proj" in name or "norm" in name:
            known[name] = np.full_like(known[name], "norm" in name)
        if "down_proj" in name:
            known[name] = np.zeros_like(known[name])
    embedding = np.random.default_rng(1).standard_normal((480, 64)).astype(np.float32) / 8
    head = np.zeros_like(embedding)
    pieces = [(text, score) for text, score, _ in read_sentencepiece(LLAMA / "tokenizer.model").pieces]
    for text in (encode(pieces, sentence) for sentence in SENTENCES):
        for one, following in pairwise(text):
            head[following] += 2 * embedding[one]
    write_arrays(folder / "model.safetensors", known | {"model.embed_tokens.weight": embedding, "lm_head.weight": head})
    return folder


def test_a_perplexity_beyond_ten_times_is_warned_of(tmp_path: Path) -> None:
    base, random = knowing_base(tmp_path / "base"), np.random.default_rng(2)
    layer = "base_model.model.model.layers.1.self_attn.o_proj"
    adapter = write_adapter(tmp_path / "adapter", {}, target_modules=["o_proj"], r=4)
    (adapter / "adapter_model.bin").unlink()
    shapes = {f"{layer}.lora_A.weight": (4, 64), f"{layer}.lora_B.weight": (64, 4)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    write_arrays(adapter / "adapter_model.safetensors", arrays)
    for strength, worse, warned in ((0.04, 5.8, False), (0.06, 20.4, True), (400, 2448, True)):
        given = copied(adapter, tmp_path / f"{strength}", "adapter_config.json", lora_alpha=strength)
        out = tmp_path / f"out-{strength}"
        done = merge(base, [given], out, "hf")
        assert done.before == pytest.approx(31.5, rel=0.01)
        assert done.after / done.before == pytest.approx(worse, rel=0.05)
        assert any("trained on another model" in warning for warning in done.warnings) == warned
        assert step(out, "perplexity")["after"] == done.after


@pytest.mark.parametrize("sizes", [{"width": 32}, {"layers": 1}, {"inner": 64}], ids=str)
def test_a_base_of_other_sizes_is_told_with_both_shapes(sizes: dict[str, int], tmp_path: Path) -> None:
    base = write_hub_llama(tmp_path / "base", **{"rows": 480, "width": 64, "layers": 2, "inner": 192, **sizes})
    said = refused(base, [CHINESE_LLAMA], tmp_path / "out")
    assert str(CHINESE_LLAMA) in said
    assert "take the model that it was trained on" in said


def test_a_second_adapter_whose_vocabulary_is_there_already_is_refused(tmp_path: Path) -> None:
    merge(HF, [CHINESE_LLAMA, CHINESE_ALPACA], tmp_path / "whole", "hf")
    assert "the model has 692 by then" in refused(tmp_path / "whole", [CHINESE_LLAMA], tmp_path / "out")


def test_a_tokenizer_of_the_other_adapter_is_refused(tmp_path: Path) -> None:
    swapped = copied(CHINESE_ALPACA, tmp_path / "swapped")
    (swapped / "added_tokens.json").unlink()
    said = refused(HF, [CHINESE_LLAMA, swapped], tmp_path / "out")
    assert "its embedding has 692 rows, and its tokenizer has 691 ids" in said
    for file in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (swapped / file).unlink()
    assert "there is no tokenizer beside it" in refused(HF, [swapped], tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"lora_alpha": None}, "lora_alpha is not said, and should be a number above 0"),
        ({"lora_alpha": "16"}, "lora_alpha is '16', and should be"),
        ({"lora_alpha": 0}, "lora_alpha is 0, and should be"),
        ({"lora_alpha": -16}, "lora_alpha is -16, and should be"),
        ({"lora_alpha": 1e300}, "lora_alpha is 1e+300, and should be"),
        ({"lora_alpha": 1e8}, "too large for float16"),
        ({"peft_type": "LOHA"}, "only LoRA is merged"),
        ({"peft_type": "PREFIX_TUNING"}, "puts vectors before the prompt"),
        ({"use_dora": True}, "sets use_dora"),
        ({"r": 4}, "adapter_config.json says 4, and the tensors 8"),
        ({"target_modules": ["k_proj"]}, "target_modules names k_proj"),
        ({"enable_lora": [True]}, "early PEFT"),
    ],
    ids=str,
)
def test_configurations_that_give_no_merge_are_told(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    adapter = copied(LLAMA / "alpaca-lora", tmp_path / "adapter", "adapter_config.json", **keys)
    said = refused(HF, [adapter], tmp_path / "out", check=False)
    assert words in said


def scales(adapter: Path) -> dict[str, float]:
    with ExitStack() as files:
        return {layer: delta.scale for layer, delta in read_adapter(adapter, files).deltas.items()}


@pytest.mark.parametrize(
    ("keys", "strengths"),
    [
        ({}, (2, 2, 2, 2)),
        ({"use_rslora": True}, (32**0.5, 32**0.5, 32**0.5, 32**0.5)),
        ({"alpha_pattern": {"q_proj": 32, "v_proj": 4}}, (4, 0.5, 4, 0.5)),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 32, "0.self_attn": 1}}, (2, 2, 4, 2)),
        ({"alpha_pattern": {r".*\.1\..*": 32}}, (2, 2, 4, 4)),
        ({"alpha_pattern": {"roj": 32}}, (2, 2, 2, 2)),
    ],
    ids=str,
)
def test_the_strength_is_peft_s(keys: dict[str, Any], strengths: tuple[float, ...], tmp_path: Path) -> None:
    adapter = copied(LLAMA / "alpaca-lora", tmp_path / "adapter", "adapter_config.json", **keys)
    names = [f"model.layers.{layer}.self_attn.{name}.weight" for layer in (0, 1) for name in ("q_proj", "v_proj")]
    assert scales(adapter) == pytest.approx(dict(zip(names, strengths, strict=True)))


@pytest.mark.parametrize("key", ["(", r"(?:\S|\S)+(?<!z)(?<=z)"])
def test_a_pattern_that_is_none_or_takes_ages_is_refused(key: str, tmp_path: Path) -> None:
    name = "adapter_config.json"
    adapter = copied(LLAMA / "alpaca-lora", tmp_path / "adapter", name, alpha_pattern={key: 1})
    assert "can't be used" in refused(HF, [adapter], tmp_path / "out")


def test_an_embedding_that_comes_with_its_own_adapter_is_the_base_of_it(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in (
        ("base_model.model.model.embed_tokens.base_layer.weight", (480, 64)),
        ("base_model.model.model.embed_tokens.lora_embedding_A", (4, 480)),
        ("base_model.model.model.embed_tokens.lora_embedding_B", (64, 4)),
    )}  # fmt: skip
    adapter = write_adapter(tmp_path / "adapter", {}, target_modules=["embed_tokens"], r=4, lora_alpha=8)
    (adapter / "adapter_model.bin").unlink()
    write_arrays(adapter / "adapter_model.safetensors", arrays)
    merge(HF, [adapter], tmp_path / "out", "hf", dtype="float32")
    whole, down, up = arrays.values()
    with Weights.of_files([tmp_path / "out" / "model.safetensors"]) as weights:
        made = weights["model.embed_tokens.weight"].floats()
    np.testing.assert_allclose(made, whole + 2 * (up @ down).T, atol=1e-4)


def test_layers_that_lie_sideways_are_added_to_sideways(tmp_path: Path) -> None:
    random, base = np.random.default_rng(4), tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2}))
    layer = "transformer.h.0.attn.c_attn"
    weights = {f"{layer}.weight": (8, 24), "transformer.wte.weight": (20, 8), f"{layer}.bias": (24,)}
    plain = {name: random.standard_normal(shape).astype(np.float32) for name, shape in weights.items()}
    write_arrays(base / "model.safetensors", plain | {"transformer.h.0.attn.mask": np.ones((1, 4), np.bool_)})
    adapter = write_adapter(tmp_path / "adapter", {}, target_modules=["c_attn"], r=2, lora_alpha=4, fan_in_fan_out=True)
    (adapter / "adapter_model.bin").unlink()
    down, up = (random.standard_normal(shape).astype(np.float32) for shape in ((2, 8), (24, 2)))
    pair = {"lora_A": down, "lora_B": up}
    write_arrays(
        adapter / "adapter_model.safetensors",
        {f"base_model.model.{layer}.{name}.weight": one for name, one in pair.items()},
    )
    done = merge(base, [adapter], tmp_path / "out", "hf")
    assert (done.before, done.after) == (0, 0)
    assert any("no perplexity was computed" in warning for warning in done.warnings)
    with Weights.of_files([tmp_path / "out" / "model.safetensors"]) as made:
        np.testing.assert_allclose(
            made[f"{layer}.weight"].read(), plain[f"{layer}.weight"] + 2 * (up @ down).T, atol=1e-5
        )
        assert made["transformer.h.0.attn.mask"].dtype == "bool"
        assert (made[f"{layer}.bias"].read() == plain[f"{layer}.bias"]).all()
    assert "has no form of Meta's" in refused(base, [adapter], tmp_path / "meta", "meta")


def test_a_quantised_base_is_refused_with_the_tensors_name(tmp_path: Path) -> None:
    base = tmp_path / "base"
    copied(HF, base)
    for file in base.glob("pytorch_model*"):
        file.unlink()
    with ExitStack() as files:
        tensors = open_model(HF, files).tensors
        arrays = {name: one.read(0, one.shape[0]) for name, one in tensors.items()}
    name = "model.layers.1.self_attn.q_proj.weight"
    write_arrays(base / "model.safetensors", arrays | {name: arrays[name].astype(np.int8)})
    assert f"{name} has numbers of int8" in refused(base, [LLAMA / "alpaca-lora"], tmp_path / "out")


def test_adapters_that_are_empty_or_were_saved_before_training_are_refused(tmp_path: Path) -> None:
    shapes = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 64),
              "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (64, 4)}  # fmt: skip
    zeros = write_adapter(tmp_path / "zeros", shapes, target_modules=["q_proj"])
    assert "changes nothing" in refused(HF, [zeros], tmp_path / "out")
    empty = write_adapter(tmp_path / "empty", {})
    assert "has no tensors" in refused(HF, [empty], tmp_path / "out")
    alone = write_adapter(tmp_path / "alone", dict([*shapes.items()][:1]), target_modules=["q_proj"])
    assert "without lora_B" in refused(HF, [alone], tmp_path / "out")


def test_what_is_neither_base_nor_adapter_is_told(tmp_path: Path) -> None:
    adapter, out = LLAMA / "alpaca-lora", tmp_path / "out"
    assert "no PEFT adapter" in refused(HF, [HF], out)
    assert "give the model first, and its adapters behind it" in refused(adapter, [adapter], out)
    assert "given twice" in refused(HF, [adapter, adapter], out)
    copy = copied(adapter, tmp_path / "copy")
    assert refused(HF, [adapter, copy], out) == f"{copy}: this is the adapter in {adapter} once more; give each once"
    assert "--parts is for Meta's form" in refused(HF, [adapter], out, parts=2)
    assert "can't be divided" in refused(HF, [adapter], out, "meta", parts=3)
    assert "there is no such file or folder" in refused(tmp_path / "none", [adapter], out)
    half = copied(HF, tmp_path / "half")
    (half / "pytorch_model-00002-of-00002.bin").unlink()
    assert "is missing" in refused(half, [adapter], out)
    bloom = fixtures() / "belle-bloom" / "hf"
    assert "does not have; take the model" in refused(bloom, [adapter], out)
    lonely = copied(META, tmp_path / "lonely")
    (lonely / "params.json").unlink()
    assert "there is no params.json" in refused(lonely, [adapter], out)


def test_parts_of_two_models_are_told_apart_by_their_norms(tmp_path: Path) -> None:
    mixed = copied(META2, tmp_path / "mixed")
    with Weights.of_files([META2 / "consolidated.01.pth"]) as weights:
        arrays = {name: one.read() for name, one in weights.items()}
    (mixed / "consolidated.01.pth").unlink()
    write_arrays(mixed / "consolidated.01.pth", arrays | {"norm.weight": 2 * arrays["norm.weight"]})
    assert "they are of two models" in refused(mixed, [LLAMA / "alpaca-lora"], tmp_path / "out")
    shutil.copy(LLAMA / "chinese-llama-merged-meta-2shard" / "consolidated.01.pth", mixed)
    assert "the embedding says 480, and the head 586" in refused(mixed, [LLAMA / "alpaca-lora"], tmp_path / "out")
