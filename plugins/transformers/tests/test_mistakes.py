"""What people get wrong in folders, options and adapters, all files being whole: told in words, or not a mistake."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from chatbridge import ConfigError, ModelLoadError, Plugins
from chatbridge.config import load

from .conftest import BLOOM, LLAMA, Load, change, copy_of, opened, recorded
from .random_models import random_model
from .test_places import NO_BITSANDBYTES

Weights = dict[str, torch.Tensor]


def refused(path: Path | str, *phrases: str, **options: Any) -> None:
    """Loading fails, and the message has all of `phrases`."""
    with pytest.raises(ModelLoadError) as caught:
        opened(Path(path), **options).close()
    for phrase in phrases:
        assert phrase in str(caught.value)


def with_weights(folder: Path, made: Callable[[Weights], Weights], **config: Any) -> Path:
    """The recorded LLaMA in one safetensors file, with its weights changed."""
    copy_of(LLAMA / "hf", folder, **config)
    weights: Weights = {}
    for file in folder.glob("pytorch_model*"):
        if file.suffix == ".bin":
            weights |= torch.load(file, weights_only=True)
        file.unlink()
    save_file({name: value.contiguous().clone() for name, value in made(weights).items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A copy of the recorded adapter, to be changed."""
    return Path(shutil.copytree(LLAMA / "alpaca-lora", tmp_path / "adapter"))


# --- folders ----------------------------------------------------------------------------------------------------------


def test_the_folder_above_the_right_one(tmp_path: Path, adapter: Path) -> None:
    # As Hugging Face's cache has them, and as a training leaves its checkpoints.
    snapshot = copy_of(LLAMA / "hf", tmp_path / "models--me--mine" / "snapshots" / "0123abc")
    refused(tmp_path / "models--me--mine", "there is no config.json here, but one in ", str(snapshot))
    refused(snapshot.parent, "there is no config.json here, but one in ", str(snapshot))
    checkpoint = shutil.copytree(adapter, tmp_path / "trained" / "checkpoint-200")
    refused(LLAMA / "hf", "no adapter, but ", str(checkpoint), lora=tmp_path / "trained")


def test_names_that_are_meant_for_something_else(tmp_path: Path) -> None:
    refused(tmp_path / "x" / "mine@main", "write revision: main")
    refused(tmp_path / "x" / "mine:q4.gguf", "`backend: llama_cpp`")
    file = tmp_path / "lora.gguf"
    file.write_bytes(b"GGUF")
    refused(LLAMA / "hf", "give the folder of the adapter", "`backend: llama_cpp`", lora=file)


def test_weights_are_looked_at_that_are_loaded(tmp_path: Path, model_of: Load) -> None:
    """A folder often holds the same weights twice, one of them half or another's: transformers takes one alone."""
    both = with_weights(tmp_path / "both", lambda weights: weights)
    names = list(recorded(LLAMA / "hf" / "pytorch_model.bin.index.json")["weight_map"])
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (both / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    shutil.copyfile(BLOOM / "hf" / "pytorch_model.bin", both / "pytorch_model.bin")
    bare = with_weights(tmp_path / "bare", lambda weights: weights)
    found, expected = model_of(both), model_of(bare)
    assert found.info.details["parameters"] == expected.info.details["parameters"]
    ids = list(range(3, 20))
    assert (found.logits(found.new_state(), ids) == expected.logits(expected.new_state(), ids)).all()


def test_other_kinds_of_models(tmp_path: Path) -> None:
    refused(random_model(tmp_path / "bert", "bert"), "reads in both directions", "as with BERT", "take a causal model")
    for kind in ("qwen2_vl", "clip", "vit"):
        folder = copy_of(LLAMA / "hf", tmp_path / kind, model_type=kind)
        refused(folder, f"{kind} is no causal language model by itself", "take a model")
    classifier = {"score.weight": torch.ones(1, 64)}
    headless = with_weights(
        tmp_path / "headless", lambda weights: {n: w for n, w in weights.items() if n != "lm_head.weight"} | classifier
    )
    refused(headless, "the files have no lm_head.weight, but score.weight", "take the one for text generation")


def test_weights_under_other_names_or_of_another_form(tmp_path: Path) -> None:
    prefixed = with_weights(tmp_path / "a", lambda weights: {f"module.{name}": w for name, w in weights.items()})
    refused(prefixed, "tensors are missing in the files", "there are others without a use, as module.lm_head.weight")
    whole = with_weights(tmp_path / "b", lambda weights: {n: (w * 100).to(torch.int8) for n, w in weights.items()})
    refused(whole, "lm_head.weight holds whole numbers", "quantization_config")
    nested = copy_of(BLOOM / "hf", tmp_path / "c")
    torch.save(
        {"state_dict": torch.load(nested / "pytorch_model.bin", weights_only=True)}, nested / "pytorch_model.bin"
    )
    refused(nested, "pytorch_model.bin: it holds no tensors by name", "save_pretrained")


def test_configurations_that_this_version_does_not_know(tmp_path: Path) -> None:
    refused(copy_of(LLAMA / "hf", tmp_path / "a", hidden_act="nope"), "it knows no 'nope', which config.json names")
    refused(copy_of(LLAMA / "hf", tmp_path / "b", rope_scaling={"type": "odd", "factor": 2}), "it knows no 'odd'")


@pytest.mark.skipif(NO_BITSANDBYTES, reason="bitsandbytes, an extra, is not installed")
def test_weights_that_are_packed_already(tmp_path: Path) -> None:
    packed = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    folder = with_weights(tmp_path / "m", lambda weights: weights, quantization_config=packed)
    refused(folder, "packed already, by bitsandbytes", "quantization: int8 can't be", quantization="int8")
    refused(folder, "the model is loaded, and can't be computed here")  # config.json says so, and they are not
    refused(folder, "the model is loaded, and can't be computed here", lora=LLAMA / "alpaca-lora")


# --- vocabularies -----------------------------------------------------------------------------------------------------


def test_vocabularies_of_other_models(tmp_path: Path, model_of: Load) -> None:
    small, large = (recorded(LLAMA / "tokenizer_cases.json")["sizes"][name] for name in ("llama", "chinese_alpaca"))
    swapped = copy_of(LLAMA / "hf", tmp_path / "swapped")
    shutil.copyfile(LLAMA / "chinese-alpaca-lora" / "tokenizer.model", swapped / "tokenizer.model")
    refused(swapped, "the tokenizer has ", f"and the model has rows for {small}", "do not belong together")
    wide = random_model(tmp_path / "wide", "llama", vocab_size=2 * small + 1)
    refused(wide, f"has {small} ids, and the model has rows for {2 * small + 1}", tokenizer=LLAMA / "hf")
    model_of(random_model(tmp_path / "spare", "llama", vocab_size=2 * small), tokenizer=LLAMA / "hf")
    bloom = copy_of(BLOOM / "hf", tmp_path / "bloom")
    (bloom / "tokenizer.json").unlink()
    shutil.copyfile(LLAMA / "tokenizer.model", bloom / "tokenizer.model")
    refused(bloom, "there is no tokenizer.json", "can't make a BloomTokenizer", "download tokenizer.json")
    assert large > small


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "tokenizer_config.json"])
def test_files_that_are_no_tokenizer(name: str) -> None:
    refused(LLAMA / "hf", f"{name}: this is no tokenizer; give its folder", tokenizer=LLAMA / "hf" / name)


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_an_adapter_for_another_architecture() -> None:
    refused(BLOOM / "hf", "changes model.layers.0.self_attn", "(bloom, ", "trained on", lora=LLAMA / "alpaca-lora")


@pytest.mark.parametrize("alpha", ["16", None, True, float("inf")])
def test_an_adapter_without_its_strength(adapter: Path, alpha: object) -> None:
    """PEFT takes 8 where nothing is said: the adapter would work, half as strongly as it was trained."""
    change(adapter / "adapter_config.json", lora_alpha=alpha)
    refused(LLAMA / "hf", "lora_alpha is ", "and should be a number above 0", lora=adapter)


def test_half_an_adapter(adapter: Path) -> None:
    file = adapter / "adapter_model.bin"
    whole = torch.load(file, weights_only=True)
    torch.save({name: value for name, value in whole.items() if "layers.1." not in name}, file)
    refused(LLAMA / "hf", "names layers that the adapter has no tensors for, as model.layers.1.", lora=adapter)
    torch.save({name: value for name, value in whole.items() if "lora_A" in name}, file)
    refused(LLAMA / "hf", "no pair of lora_A and lora_B", lora=adapter)
    file.unlink()
    refused(LLAMA / "hf", "there is an adapter_config.json, and no adapter_model.safetensors or ", lora=adapter)


def test_what_an_adapter_was_trained_on_is_told(adapter: Path, model_of: Load) -> None:
    """Two models of one size differ in nothing that could be checked: people have to see it."""
    change(adapter / "adapter_config.json", base_model_name_or_path="meta-llama/Llama-2-7b-hf\n" + 200 * "x")
    details = model_of(LLAMA / "hf", lora=adapter).info.details["lora"]
    assert "alpha 16, trained on meta-llama/Llama-2-7b-hf xxx" in details
    assert "x" * 100 not in details


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"device_map": {"": 0}}, "device_map names the card 0, and torch"),
        ({"device_map": {"": "cuda"}}, "device_map names the card cuda, and torch"),
        ({"device_map": {"model": "cpu", "lm_head": "cuda:1"}}, "device_map names the card cuda:1, and torch"),
        ({"device_map": "auto", "max_memory": {0: "20GiB", "cpu": "40GiB"}}, "max_memory names the card 0, and torch"),
    ],
)
def test_cards_that_are_not_there(options: dict[str, Any], phrase: str) -> None:
    refused(LLAMA / "hf", phrase, "sees no NVIDIA card", device="auto", **options)


def test_maps_that_do_not_fit_the_model(tmp_path: Path) -> None:
    given: dict[str, Any] = {"device": "auto", "dtype": "float32"}
    strange, part = {"": "cpu", "model.layer.0": "cpu"}, {"model.embed_tokens": "cpu", "lm_head": "cpu"}
    refused(LLAMA / "hf", "the model has no part 'model.layer.0'; it has model, lm_head", device_map=strange, **given)
    refused(LLAMA / "hf", "it says nothing of model.layers.0.", "or write auto", device_map=part, **given)
    refused(LLAMA / "hf", "name one by offload_folder", device_map={"": "disk"}, **given)
    (file := tmp_path / "file").touch()
    refused(LLAMA / "hf", f"offload_folder: {file} can't be used", device_map="auto", offload_folder=file, **given)


def test_a_model_that_lies_on_disk_altogether_answers_the_same(tmp_path: Path, model_of: Load) -> None:
    options = {"device": "auto", "dtype": "float32", "device_map": {"": "disk"}, "offload_folder": tmp_path / "disk"}
    found, expected = model_of(LLAMA / "hf", **options), model_of(LLAMA / "hf", dtype="float32")
    assert found.info.details["layers"] == "all on disk"
    ids = list(range(3, 20))
    assert abs(found.logits(found.new_state(), ids) - expected.logits(expected.new_state(), ids)).max() < 2e-4


@pytest.mark.skipif(NO_BITSANDBYTES, reason="bitsandbytes, an extra, is not installed")
def test_packed_weights_do_not_fill_the_log(model_of: Load, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(LLAMA / "hf", quantization="int8")
    with caplog.at_level(logging.INFO):
        model.logits(model.new_state(), [1, 5, 9])
    assert not caplog.records


@pytest.mark.parametrize(
    ("lines", "phrase"),
    [
        ("path: https://huggingface.co/Qwen/Qwen2.5-1.5B-Instruct/tree/main", "write Qwen/Qwen2.5-1.5B-Instruct"),
        ("path: hf.co/Qwen/Qwen2.5-1.5B", "this is the address of a page; write Qwen/Qwen2.5-1.5B"),
        ("path: m\n    lora: https://huggingface.co/me/mine?x=1", "write me/mine"),
        ("path: m\n    lora:", "`lora` is empty"),
        ("path: m\n    torch_dtype: float16", "did you mean 'dtype'?"),
        ("path: m\n    temperature: 0.5", "it belongs under `sampling`"),
        ("path: m\n    attention: flash_attention_2\n    device: cpu", "computes on NVIDIA cards, and device is cpu"),
    ],
)
def test_lines_of_bots_yaml_that_mean_something_else(tmp_path: Path, lines: str, phrase: str) -> None:
    text = f"models:\n  m:\n    backend: transformers\n    {lines}\nbots: {{r: {{frontend: repl}}}}\n"
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "bots.yaml", Plugins())
    assert phrase in str(caught.value)
