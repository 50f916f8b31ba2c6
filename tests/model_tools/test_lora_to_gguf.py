"""PEFT's adapters as GGUF: what is in them, whatever rank and alpha each layer has; and those that can't be had so."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge import ModelLoadError, inspect_model
from chatbridge.cli.model.convert import convert
from chatbridge.model_files.gguf import GgufHeader
from chatbridge.model_tools.output import NewTensor, write_tensors
from chatbridge.model_tools.safetensors_file import SafetensorsFile
from chatbridge.testing import fixtures, read_peft_adapter, write_gguf

LLAMA = fixtures() / "llama"
BLOOM = fixtures() / "belle-bloom" / "hf"
BASE = {"base": LLAMA / "hf"}

Arrays = dict[str, np.ndarray]


def read(path: Path) -> Arrays:
    data = path.read_bytes()
    types = {"F32": np.float32, "F16": np.float16}
    return {
        name: np.frombuffer(data, types[tensor.kind.upper()], tensor.size, tensor.start).reshape(tensor.shape)
        for name, tensor in GgufHeader(path, reader="this test").tensors.items()
    }


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    def new(name: str, array: np.ndarray) -> NewTensor:
        return NewTensor(name, array.shape, str(array.dtype), array.nbytes, lambda: [array.tobytes()])

    tensors = [new(name, array) for name, array in arrays.items()]
    write_tensors(path, SafetensorsFile(tensors), tensors, "test")


def adapter(folder: Path, arrays: Mapping[str, np.ndarray], **config: object) -> Path:
    folder.mkdir()
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    write(folder / "adapter_model.safetensors", {f"base_model.model.{name}": a for name, a in arrays.items()})
    return folder


def pair(layer: str, *, rank: int = 4, out: int = 64, into: int = 64, seed: int = 1) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        f"{layer}.lora_A.weight": rng.standard_normal((rank, into)).astype(np.float32),
        f"{layer}.lora_B.weight": rng.standard_normal((out, rank)).astype(np.float32),
    }


Q, V = (f"model.layers.0.self_attn.{name}" for name in ("q_proj", "v_proj"))


@pytest.mark.parametrize("name", ["alpaca-lora", "alpaca-lora-r16-qkvo"])
@pytest.mark.parametrize("base", ["hf", "meta-1shard", "gguf"])
def test_recorded_adapters_are_what_the_kit_makes_of_them(tmp_path: Path, name: str, base: str) -> None:
    given = LLAMA / base
    if base == "gguf":
        sizes = {"embedding_length": 64, "block_count": 2, "attention.head_count": 4}
        known = {f"llama.{key}": value for key, value in sizes.items()}
        given = write_gguf(tmp_path / "base.gguf", known, {"output.weight": np.ones((4, 4), np.float32)})
    convert(LLAMA / name, tmp_path / "out.gguf", "f32", {"base": given})
    wanted = read_peft_adapter(LLAMA / name, heads=4)
    found = read(tmp_path / "out.gguf")
    assert found.keys() == wanted.pairs.keys()
    for key, array in wanted.pairs.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)
    metadata = GgufHeader(tmp_path / "out.gguf", reader="this test").metadata
    told = {key: metadata[key] for key in ("general.type", "general.architecture", "adapter.type")}
    assert told == {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    assert metadata["adapter.lora.alpha"] == wanted.alpha
    assert inspect_model(tmp_path / "out.gguf").layout == "gguf-adapter"
    assert inspect_model(tmp_path / "out.gguf").sound


def test_half_the_bits_are_rounded_once(tmp_path: Path) -> None:
    convert(LLAMA / "alpaca-lora", tmp_path / "whole.gguf", "f32", BASE)
    convert(LLAMA / "alpaca-lora", tmp_path / "half.gguf", "f16", BASE)
    whole, half = read(tmp_path / "whole.gguf"), read(tmp_path / "half.gguf")
    for key, array in whole.items():
        assert half[key].dtype == np.float16
        np.testing.assert_array_equal(half[key], array.astype(np.float16))


def strengths(path: Path) -> dict[str, float]:
    """What llama.cpp multiplies each pair by: alpha / rank."""
    alpha = GgufHeader(path, reader="this test").metadata["adapter.lora.alpha"]
    return {name: alpha / array.shape[1] for name, array in read(path).items() if name.endswith("lora_b")}


def changes(path: Path) -> Arrays:
    found = read(path)
    return {name.removesuffix(".lora_b"): strength * found[name] @ found[f"{name[:-1]}a"]
            for name, strength in strengths(path).items()}  # fmt: skip


def test_each_layer_is_changed_by_its_own_rank_and_alpha(tmp_path: Path) -> None:
    arrays = pair(V, rank=4) | pair(V.replace("0", "1"), rank=2) | pair("model.layers.1.mlp.up_proj", rank=4, out=192)
    folder = adapter(
        tmp_path / "adapter", arrays, r=4, lora_alpha=8, rank_pattern={"layers.1.self_attn.v_proj": 2},
        alpha_pattern={"mlp.up_proj": 32}, target_modules=["v_proj", "up_proj"],
    )  # fmt: skip
    convert(folder, tmp_path / "out.gguf", "f32", BASE)
    for name, layer, scale in (
        ("blk.0.attn_v.weight", V, 8 / 4),
        ("blk.1.attn_v.weight", V.replace("0", "1"), 8 / 2),
        ("blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj", 32 / 4),
    ):
        wanted = scale * arrays[f"{layer}.lora_B.weight"] @ arrays[f"{layer}.lora_A.weight"]
        np.testing.assert_allclose(changes(tmp_path / "out.gguf")[name], wanted, rtol=1e-5, atol=1e-5)


def test_rank_stabilised_adapters_have_another_scale(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", pair(V), use_rslora=True, target_modules=["v_proj"])
    convert(folder, tmp_path / "out.gguf", "f32", BASE)
    assert strengths(tmp_path / "out.gguf") == {"blk.0.attn_v.weight.lora_b": pytest.approx(8 / 4**0.5)}


def test_rows_of_shared_keys_are_ordered_by_their_own_heads(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    said = json.loads((LLAMA / "hf" / "config.json").read_text()) | {"num_key_value_heads": 2}
    (base / "config.json").write_text(json.dumps(said))
    layer = "model.layers.0.self_attn.k_proj"
    arrays = pair(layer, out=32)
    convert(
        adapter(tmp_path / "adapter", arrays, target_modules=["k_proj"]), tmp_path / "out.gguf", "f32", {"base": base}
    )
    rows, made = arrays[f"{layer}.lora_B.weight"], read(tmp_path / "out.gguf")["blk.0.attn_k.weight.lora_b"]
    for head in range(2):
        np.testing.assert_array_equal(made[head * 16 : head * 16 + 16 : 2], rows[head * 16 : head * 16 + 8])
        np.testing.assert_array_equal(made[head * 16 + 1 : head * 16 + 16 : 2], rows[head * 16 + 8 : head * 16 + 16])


def test_blooms_joined_matrix_is_taken_apart(tmp_path: Path) -> None:
    config = json.loads((BLOOM / "config.json").read_text())
    width, heads = config.get("hidden_size", config.get("n_embed")), config["n_head"]
    layer = "transformer.h.0.self_attention.query_key_value"
    arrays = pair(layer, out=3 * width, into=width)
    folder = adapter(tmp_path / "adapter", arrays, target_modules=["query_key_value"])
    convert(folder, tmp_path / "out.gguf", "f32", {"base": BLOOM})
    rows = arrays[f"{layer}.lora_B.weight"].reshape(heads, 3, width // heads, 4)
    wanted = np.concatenate([rows[:, at].reshape(width, 4) for at in range(3)])
    np.testing.assert_array_equal(read(tmp_path / "out.gguf")["blk.0.attn_qkv.weight.lora_b"], wanted)
    assert GgufHeader(tmp_path / "out.gguf", reader="this test").architecture == "bloom"


# --- the base --------------------------------------------------------------------------------------------------------


def test_the_folder_that_an_adapter_names_is_its_base(tmp_path: Path) -> None:
    folder = adapter(
        tmp_path / "adapter", pair(Q), target_modules=["q_proj"], base_model_name_or_path=str(LLAMA / "hf")
    )
    convert(folder, tmp_path / "out.gguf", "f32", {})
    convert(folder, tmp_path / "other.gguf", "f32", BASE)
    assert read(tmp_path / "out.gguf").keys() == {"blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"}
    same = read(tmp_path / "other.gguf")
    assert all((same[name] == array).all() for name, array in read(tmp_path / "out.gguf").items())


def test_metas_published_sizes_tell_the_heads(tmp_path: Path) -> None:
    arrays: Arrays = {}
    for number in range(32):
        arrays |= pair(f"model.layers.{number}.self_attn.q_proj", rank=1, out=4096, into=4096)
    named: dict[str, object] = {
        "base_model_name_or_path": "decapoda-research/llama-7b-hf",
        "r": 1,
        "target_modules": ["q_proj"],
    }
    folder = adapter(tmp_path / "adapter", arrays, **named)
    convert(folder, tmp_path / "out.gguf", "f16", {})
    told = json.loads((tmp_path / "out.gguf.report.json").read_text())["steps"][0]
    assert (told["base"], told["heads"]) == ("LLaMA 7B", 32)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "lora_alpha": 8, **named, "base_model_name_or_path": "Qwen/Qwen1.5-7B"})
    )
    with pytest.raises(ModelLoadError, match=r"names 'Qwen/Qwen1.5-7B', which is no folder here; give its folder"):
        convert(folder, tmp_path / "other.gguf", "f16", {})


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"hidden_size": 128}, r"q_proj.weight as a matrix of \[64, 64\], and by .*config.json it has \[128, 128\]"),
        ({"num_hidden_layers": 1}, r"layers: the adapter says 2, and .*config.json 1; give the model"),
        ({"num_attention_heads": None}, r"config.json: it gives None for num_attention_heads"),
        ({"num_attention_heads": 3}, r"config.json: a width of 64 does not go with 3 heads"),
        ({"model_type": "gpt2"}, r"llama, .* have, and .*config.json is gpt2; give the .*llama-tiny-hf'\) by --base"),
        ({"model_type": "bloom", "n_layer": 2}, r"such as llama, .* have, and .*config.json is bloom; give"),
    ],
)  # fmt: skip
def test_another_base_is_told_by_both_numbers(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    said = json.loads((LLAMA / "hf" / "config.json").read_text()) | config
    (base / "config.json").write_text(json.dumps(said))
    with pytest.raises(ModelLoadError, match=told):
        convert(LLAMA / "alpaca-lora", tmp_path / "out.gguf", "f32", {"base": base})
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("base", "told"),
    [
        (None, r"alpaca-lora: the model that it was trained on has to be known, .* 'chatbridge/llama-tiny-hf'"),
        ("nowhere", r"nowhere: there is no such file or folder"),
        ("tokenizer.model", r"tokenizer.model: this is no base: no config.json or params.json is here"),
    ],
)
def test_without_a_base_it_is_asked_for(tmp_path: Path, base: str | None, told: str) -> None:
    with pytest.raises(ModelLoadError, match=told):
        convert(LLAMA / "alpaca-lora", tmp_path / "out.gguf", "f32", {} if base is None else {"base": LLAMA / base})


# --- refusals --------------------------------------------------------------------------------------------------------


def test_one_that_replaces_embeddings_is_to_be_merged(tmp_path: Path) -> None:
    told = r"it replaces .*weight, which an adapter of GGUF can't; merge it into its model \(chatbridge model merge\)"
    with pytest.raises(ModelLoadError, match=told):
        convert(LLAMA / "chinese-llama-lora", tmp_path / "out.gguf", "f32", BASE)


@pytest.mark.parametrize(
    ("arrays", "config", "told"),
    [
        (pair("model.layers.0.self_attn.rotary"), {"target_modules": ["rotary"]},
         r"model.layers.0.self_attn.rotary.weight has no place in llama.cpp's llama; merge it"),
        ({n: 0 * a if "lora_B" in n else a for n, a in pair(V).items()}, {}, "the adapter changes nothing"),
        ({n: a * np.float32(1e-9) for n, a in pair(V).items()}, {}, "holds what f16 can't: too large, or too small"),
        ({n: a * np.float32("nan") for n, a in pair(V).items()}, {}, "numbers that are none"),
        (pair(V, into=32), {}, r"v_proj.weight as a matrix of \[64, 32\], and by .* it has \[64, 64\]"),
        (pair(V), {"use_dora": True}, "it sets use_dora"),
        (pair(V), {"peft_type": "IA3"}, "IA3"),
    ],
    ids=["no place", "zero", "small", "nan", "narrow", "dora", "ia3"],
)  # fmt: skip
def test_what_can_not_be_had_so_is_refused(tmp_path: Path, arrays: Arrays, config: dict[str, Any], told: str) -> None:
    folder = adapter(tmp_path / "adapter", arrays, **({"target_modules": ["v_proj"]} | config))
    with pytest.raises(ModelLoadError, match=re.escape(str(folder)) + ".*" + told):
        convert(folder, tmp_path / "out.gguf", "f16", BASE)
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]


def test_damaged_adapters_are_told_by_their_names_and_leave_nothing(tmp_path: Path) -> None:
    rng = random.Random(5)
    folder = tmp_path / "adapter"
    shutil.copytree(LLAMA / "alpaca-lora", folder)
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    for turn in range(40):
        for name, data in whole.items():
            (folder / name).write_bytes(data)
        name = rng.choice([*whole])
        if turn % 3 == 0:
            data = whole[name][: rng.randrange(len(whole[name]))]
        elif turn % 3 == 1:
            data = rng.randbytes(rng.randrange(1, 2000))
        else:
            data = rng.choice([b"", b"{}", b"<html>", *(other for key, other in whole.items() if key != name)])
        (folder / name).write_bytes(data)
        if name == "adapter_config.json" and data == b"{}":
            continue
        with pytest.raises(ModelLoadError, match=re.escape(str(folder))):
            convert(folder, tmp_path / "out.gguf", "f32", BASE)
        assert [file.name for file in tmp_path.iterdir()] == ["adapter"]
