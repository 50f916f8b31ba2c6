"""What can't be loaded is refused in words, before anything large is read: what, where, and what to do."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from chatbridge import ConfigError, ModelLoadError, Plugins
from chatbridge.config import load

from .conftest import BLOOM, LLAMA, Load, change, copy_of, opened, recorded

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * '0'}\nsize 12345\n"
GOOD = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def refused(path: Path, *phrases: str, **options: Any) -> None:
    """Loading fails, and the message has all of `phrases`."""
    with pytest.raises(ModelLoadError) as caught:
        opened(path, **options).close()
    for phrase in phrases:
        assert phrase in str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the recorded LLaMA, to be damaged."""
    return copy_of(LLAMA / "hf", tmp_path / "model")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A copy of the recorded adapter, likewise."""
    return Path(shutil.copytree(LLAMA / "alpaca-lora", tmp_path / "adapter"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "tokenizer_config.json", *SHARDS])
def test_a_git_lfs_pointer_in_the_place_of_a_file(model: Path, name: str) -> None:
    (model / name).write_text(POINTER, encoding="ascii")
    refused(model, name, "a Git LFS pointer and not the file itself", "git lfs pull")


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_half_a_download_of_weights(model: Path, name: str, share: float) -> None:
    whole = (model / name).read_bytes()
    (model / name).write_bytes(whole[: int(len(whole) * share)])
    refused(model, name, "only a part of the file was downloaded", "download it again")


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_half_a_download_of_safetensors(tmp_path: Path, share: float) -> None:
    folder = safe_copy(tmp_path)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    refused(folder, "model.safetensors", "only a part of the file was downloaded", "bytes are there")


def test_the_beginning_of_safetensors_is_looked_over(tmp_path: Path) -> None:
    folder = safe_copy(tmp_path)
    file = folder / "model.safetensors"
    offsets: list[object] = [[], [0, math.inf], "ab", None]
    for header in (b"[" * 100_000, *(json.dumps({"x": {**GOOD, "data_offsets": one}}).encode() for one in offsets)):
        file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        refused(folder, "model.safetensors", "its header is damaged")


def test_a_tokenizer_whose_words_are_no_text(model: Path) -> None:
    file = model / "tokenizer.model"
    file.write_bytes(file.read_bytes().replace("\u2581the".encode(), b"\xff\xff\xffthe", 1))
    refused(model, "tokenizer.model", "no SentencePiece model")


def test_what_a_tokenizers_configuration_can_not_mean_is_left_aside(model: Path) -> None:
    given = {"chat_template": [{"name": [], "template": "x"}], "added_tokens_decoder": {"²": {"content": "b"}}}
    change(model / "tokenizer_config.json", **given)
    opened(model).close()


def safe_copy(tmp_path: Path) -> Path:
    """The recorded BLOOM with its weights as safetensors."""
    folder = copy_of(BLOOM / "hf", tmp_path / "safe")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    save_file({name: value.clone() for name, value in weights.items()}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").unlink()
    return folder


def test_a_part_that_is_missing(model: Path) -> None:
    (model / SHARDS[1]).unlink()
    refused(model, "the weights have 2 parts", f"{SHARDS[1]} is missing", "download all of them")


@pytest.mark.parametrize(
    ("name", "content", "phrases"),
    [
        ("config.json", "{", ("config.json", "this is no JSON", "download it again")),
        ("config.json", "[1]", ("should be an object",)),
        ("config.json", "", ("the file is empty",)),
        ("config.json", "<!DOCTYPE html><html>", ("a web page and not the file",)),
        ("config.json", '{"vocab_size": 5}', ("it has no model_type",)),
        ("config.json", '{"model_type": "novel"}', ("does not know the architecture 'novel'", "-U transformers")),
        ("tokenizer.model", "nonsense", ("tokenizer.model", "no SentencePiece model", "download it again")),
        ("pytorch_model.bin.index.json", '{"weight_map": {}}', ("it names no files",)),
        ("pytorch_model.bin.index.json", '{"weight_map": {"a": "../x.bin"}}', ("no name of a file beside it",)),
        ("pytorch_model.bin.index.json", '{"weight_map": {"a": ".."}}', ("no name of a file beside it",)),
        ("pytorch_model.bin.index.json", '{"weight_map": {"a": ""}}', ("no name of a file beside it",)),
        ("added_tokens.json", '{"x": -1}', ("gives 'x' the id -1", "download it again")),
        ("added_tokens.json", f'{{"x": {10**30}}}', ("gives 'x' the id 1000", "download it again")),
    ],
)
def test_files_that_are_not_what_they_are_called(
    model: Path, name: str, content: str, phrases: tuple[str, ...]
) -> None:
    (model / name).write_text(content, encoding="utf-8")
    refused(model, *phrases)


def test_a_tokenizer_json_that_is_cut_short(tmp_path: Path) -> None:
    folder = copy_of(BLOOM / "hf", tmp_path / "bloom")
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:500])
    refused(folder, "tokenizer.json", "this is no tokenizer.json", "download it again")
    file.unlink()
    refused(folder, "there is no tokenizer here", "tokenizer:")


class Opens:
    """What a pickle may say to run a program when it is read."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_a_pickle_that_wants_more_than_tensors(model: Path, adapter: Path, kind: str, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": Opens()}, model / SHARDS[0])
    torch.save({"a": torch.ones(2), "b": Opens()}, adapter / "adapter_model.bin")
    given = {} if kind == "model" else {"lora": adapter}
    refused(model if kind == "model" else LLAMA / "hf", "wants to run code", "take the model as safetensors", **given)
    (model / SHARDS[0]).write_bytes(pickle.dumps(Opens()))
    refused(model, SHARDS[0])
    assert not Path("ran").exists()


def test_folders_of_other_programs(tmp_path: Path, adapter: Path) -> None:
    def folder(name: str, *files: tuple[str, bytes]) -> Path:
        (tmp_path / name).mkdir()
        for file, content in files:
            (tmp_path / name / file).write_bytes(content)
        return tmp_path / name

    chatglm = {"model_type": "chatglm", "architectures": ["ChatGLMModel"], "auto_map": {}}
    first = json.dumps({**chatglm, "inner_hidden_size": 16384, "position_encoding_2d": True}).encode()
    refused(folder("6b", ("config.json", first)), "this is ChatGLM-6B", "`backend: glm`")
    refused(folder("glm2", ("config.json", json.dumps(chatglm).encode())), "ChatGLM2 or 3", "-hf")
    refused(folder("gguf", ("m.gguf", b"GGUF")), "`backend: llama_cpp`")
    refused(folder("rwkv", ("RWKV-4.pth", b"PK")), "`backend: rwkv`")
    refused(folder("meta", ("consolidated.00.pth", b"PK")), "Meta's original files", "chatbridge model convert --to hf")
    refused(folder("belle", ("a.enc", b"x")), "encrypted weights", "decrypt them")
    refused(folder("t5", ("config.json", b'{"model_type": "t5", "is_encoder_decoder": true}')), "encoder-decoder")
    refused(folder("empty"), "there is no config.json")
    refused(folder("bare", ("config.json", b'{"model_type": "llama"}')), "there are no weights here")
    refused(folder("tf", ("config.json", b'{"model_type": "llama"}'), ("tf_model.h5", b"x")), "TensorFlow's")
    refused(adapter, "an adapter and no model", "as lora")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    refused(tmp_path / "m.gguf", "a GGUF file", "`backend: llama_cpp`")
    refused(tmp_path / "absent", "absent: there is no such folder")


def test_remote_code_is_not_run_unless_somebody_says_so(model: Path) -> None:
    change(model / "config.json", model_type="novel", auto_map={"AutoModelForCausalLM": "modeling.Novel"})
    (model / "modeling.py").write_text("import os; os.mkdir('ran')", encoding="utf-8")
    refused(model, "does not know 'novel'", "trust_remote_code: true would run it", "all rights of this program")
    assert not Path("ran").exists()


def test_weights_that_do_not_fit_the_configuration(model: Path) -> None:
    change(model / "config.json", intermediate_size=200)
    refused(model, "has another shape than config.json says", "in the files", "in config.json", "200")


def test_weights_that_are_missing_are_not_made_up(model: Path) -> None:
    change(model / "config.json", num_hidden_layers=3)
    refused(model, "tensors are missing in the files", "model.layers.2.", "would make them up")


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    folder = copy_of(BLOOM / "hf", tmp_path / "nan")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights["transformer.ln_f.weight"][:] = float("nan")
    torch.save(weights, folder / "pytorch_model.bin")
    refused(folder, "logits are no numbers", "float32 or bfloat16")


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id"])
def test_ids_outside_the_vocabulary(model: Path, key: str) -> None:
    size = recorded(model / "config.json")["vocab_size"]
    change(model / "config.json", **{key: size})
    own = {"bos_token_id": 1, "eos_token_id": 2}[key]
    refused(model, f"{key} is {size}", f"the vocabulary of {size} ids", f"the vocabulary's own is {own}")


def test_an_end_that_is_a_plain_word(tmp_path: Path) -> None:
    folder = copy_of(BLOOM / "hf", tmp_path / "bloom", eos_token_id=300)
    change(folder / "tokenizer_config.json", eos_token=None)
    (folder / "special_tokens_map.json").unlink()
    refused(folder, "eos_token_id is 300", "the plain text", "answers would end there")


# --- adapters ---------------------------------------------------------------------------------------------------------


def resaved(adapter: Path, change_one: Callable[[str, torch.Tensor], torch.Tensor | None]) -> Path:
    """The adapter with each tensor changed, or left out for None."""
    file = adapter / "adapter_model.bin"
    found = {name: change_one(name, value) for name, value in torch.load(file, weights_only=True).items()}
    torch.save({name: value for name, value in found.items() if value is not None}, file)
    return adapter


@pytest.mark.parametrize("key", ["lora", "adapters"])
def test_adapters_without_tensors_or_effect(adapter: Path, key: str) -> None:
    def given(path: Path) -> dict[str, Any]:
        return {"lora": path} if key == "lora" else {"adapters": {"mine": path}}

    whole = shutil.copytree(adapter, adapter.with_name("whole"))
    size = resaved(adapter, lambda name, value: None).joinpath("adapter_model.bin").stat().st_size
    refused(LLAMA / "hf", f"the adapter has no tensors ({size} bytes)", "save_pretrained", **given(adapter))
    zeros = resaved(whole, lambda name, value: value * 0 if "lora_B" in name else value)
    refused(LLAMA / "hf", "the adapter changes nothing", "lora_B", "before it was trained", **given(zeros))


def test_adapters_for_another_base(adapter: Path, tmp_path: Path) -> None:
    width = recorded(LLAMA / "hf" / "config.json")["hidden_size"]
    copies = [Path(shutil.copytree(adapter, tmp_path / name)) for name in ("wide", "deep", "nan", "rank")]
    wide = resaved(copies[0], lambda name, value: torch.cat([value, value], 1) if "lora_A" in name else value)
    refused(LLAMA / "hf", "for another model", f"takes {2 * width:,} numbers", f"takes {width:,} and", lora=wide)
    layers = recorded(LLAMA / "hf" / "config.json")["num_hidden_layers"]
    file = copies[1] / "adapter_model.bin"
    found = torch.load(file, weights_only=True)
    deep = {name.replace("layers.0.", f"layers.{layers}."): value for name, value in found.items()}
    torch.save(found | deep, file)
    refused(LLAMA / "hf", f"layers.{layers}.", f"llama, {layers} layers of {width}", lora=copies[1])
    refused(LLAMA / "hf", "numbers that are none", lora=resaved(copies[2], lambda name, value: value / 0))
    rank = recorded(copies[3] / "adapter_config.json")["r"]
    change(copies[3] / "adapter_config.json", r=rank + 1)
    refused(LLAMA / "hf", f"adapter_config.json says {rank + 1}, and the tensors {rank}", lora=copies[3])


def test_adapters_for_another_vocabulary_tell_both_numbers(tmp_path: Path) -> None:
    sizes = recorded(LLAMA / "tokenizer_cases.json")["sizes"]
    first, second, plain = (f"{sizes[name]:,}" for name in ("chinese_llama", "chinese_alpaca", "llama"))
    one, two = LLAMA / "chinese-llama-lora", LLAMA / "chinese-alpaca-lora"
    refused(LLAMA / "hf", f"of {first} ids", f"the model has {second} by now", "the wrong order", lora=[two, one])
    refused(LLAMA / "hf", f"of {second} ids", f"has {first}", lora=[one, two], tokenizer=one)
    refused(LLAMA / "hf", f"has {first} ids", f"has rows for {plain}", tokenizer=one)
    own = (f"a vocabulary of {sizes['chinese_llama']} ids", "lora of a model of its own")
    refused(LLAMA / "hf", *own, adapters={"zh": one})
    stray = Path(shutil.copytree(LLAMA / "alpaca-lora", tmp_path / "stray"))
    shutil.copyfile(one / "tokenizer.model", stray / "tokenizer.model")
    refused(LLAMA / "hf", first, plain, lora=stray)
    refused(LLAMA / "hf", f"a vocabulary of {first} ids", plain, adapters={"zh": stray})
    bare = Path(shutil.copytree(one, tmp_path / "bare"))
    (bare / "tokenizer.model").unlink()
    refused(LLAMA / "hf", f"of {first} ids", f"has {plain}", "the adapter's own tokenizer", lora=bare)


def test_folders_that_are_no_adapters(tmp_path: Path, adapter: Path) -> None:
    refused(LLAMA / "hf", "lora: ", "absent: there is no such folder", lora=tmp_path / "absent")
    refused(LLAMA / "hf", "lora: ", "a whole model: give it as path", lora=LLAMA / "hf")
    refused(LLAMA / "hf", "adapters: mine", "this is a file", adapters={"mine": adapter / "adapter_model.bin"})
    change(adapter / "adapter_config.json", peft_type="PREFIX_TUNING")
    refused(LLAMA / "hf", "PREFIX_TUNING", "take a LoRA", lora=adapter)
    change(adapter / "adapter_config.json", peft_type="LORA", enable_lora=[True, False, True])
    refused(LLAMA / "hf", "enable_lora", "train it again", lora=adapter)
    change(adapter / "adapter_config.json", enable_lora=None, target_modules=["k_proj"])
    refused(LLAMA / "hf", "tensors fit nothing that target_modules", lora=adapter)
    (adapter / "adapter_model.bin").write_text(POINTER, encoding="ascii")
    refused(LLAMA / "hf", "a Git LFS pointer", lora=adapter)


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "phrases"),
    [
        ({"device": "cuda:7"}, ("device: cuda:7", "install a torch with CUDA, or write cpu")),
        ({"context_length": 5000}, ("context_length: 5000", "tokens that this model takes")),
        ({"attention": "flash_attention_2", "device": "auto"}, ("pip install flash-attn",)),
        ({"revision": "main"}, ("revision is for names on Hugging Face",)),
    ],
)
def test_options_that_can_not_be_honoured(options: dict[str, Any], phrases: tuple[str, ...]) -> None:
    refused(LLAMA / "hf", *phrases, **options)


@pytest.mark.parametrize(
    ("lines", "phrase"),
    [
        ("device: gpu", "a device is auto, cpu, cuda"),
        ("device: cpu\n    device_map: auto", "leave one out"),
        ("max_memory: {0: 1GiB}", "does nothing without device_map"),
        ("device_map: auto\n    max_memory: {0: much}", "a number with a unit"),
        ("quantization: int4", "int8"),
        ("adapters: {mine: {lora: []}}", "an adapter needs lora"),
        ("lorra: x", "lora"),
    ],
)
def test_mistakes_in_bots_yaml_are_told_with_their_line(tmp_path: Path, lines: str, phrase: str) -> None:
    (tmp_path / "bots.yaml").write_text(
        f"models:\n  m:\n    backend: transformers\n    path: m\n    {lines}\nbots: {{r: {{frontend: repl}}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "bots.yaml", Plugins())
    assert phrase in str(caught.value)
    assert "bots.yaml:" in str(caught.value)


def test_a_model_on_hugging_face_that_was_downloaded_before(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--me--mine" / "snapshots" / ("0" * 40)
    copy_of(LLAMA / "hf", snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    code = (
        "from chatbridge_transformers.folder import locate, read\n"
        "print(read(locate('me/mine', None, lambda share, doing: None)).path)\n"
        "locate('me/other', None, lambda share, doing: None)"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("0" * 40), done.stderr
    assert "path: me/other: there is no such folder" in done.stderr


def test_the_files_as_they_are_can_be_loaded(tmp_path: Path, model_of: Load) -> None:
    """Else every test here passes for another reason than it says."""
    model_of(copy_of(LLAMA / "hf", tmp_path / "m"))
    model_of(safe_copy(tmp_path))
    model_of(LLAMA / "hf", lora=Path(shutil.copytree(LLAMA / "alpaca-lora", tmp_path / "a")))
