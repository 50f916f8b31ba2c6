"""What is wrong with a model that is to become a GGUF file is told in words, and nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.cli.model.convert import convert
from chatbridge.errors import ModelLoadError
from chatbridge.model_files.arrays import Weights
from chatbridge.model_files.gguf import GgufHeader
from chatbridge.model_tools import output
from chatbridge.testing import fixtures, hub_arrays, hub_config, write_hub

from .samples import BLOOM, LLAMA

Change = Callable[[dict[str, Any], dict[str, np.ndarray]], object]


def nothing_left(folder: Path) -> bool:
    return not [file.name for file in folder.iterdir() if ".gguf" in file.name]


def put(name: str, value: Any) -> Change:
    return lambda config, arrays: config.update({name: value})


def tensor(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda config, arrays: arrays.update({name: change(arrays[name])})


def with_number(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[3, 5] = value
        return array

    return change


Q = "model.layers.1.self_attn.q_proj.weight"
FAULTS: dict[str, tuple[Change, str]] = {
    "a tensor is missing": (lambda config, arrays: arrays.pop("lm_head.weight"), r"lm_head\.weight should be among"),
    "a tensor too many": (
        lambda config, arrays: arrays.update({"model.layers.0.mlp.experts.weight": arrays[Q]}),
        r"model\.layers|layers\.0\.mlp\.experts\.weight",
    ),
    "a shape": (tensor(Q, lambda q: q[:48]), r"q_proj\.weight has the shape \[48, 64\], and should have \[64, 64\]"),
    "grouped heads": (put("num_key_value_heads", 4), r"rows of k_proj: config\.json says 64, and the weights 32"),
    "a width of heads": (put("head_dim", 24), r"rows of q_proj: config\.json says 96, and the weights 64"),
    "no heads": (put("num_attention_heads", None), r"config\.json does not say num_attention_heads"),
    "no norm": (put("rms_norm_eps", "x"), "rms_norm_eps is 'x', and should be a number"),
    "angles": (put("rope_scaling", {"type": "dynamic", "factor": 2}), r"scaled as 'dynamic'; llama\.cpp's convert_hf"),
    "half of the angles": (put("rope_scaling", {"type": "yarn", "factor": 2}), r"original_max_position_embeddings"),
    "another activation": (put("hidden_act", "gelu"), r"hidden_act is 'gelu', and llama\.cpp's llama computes other"),
    "vocabulary": (put("vocab_size", 479), r"vocabulary: config\.json says 479, and the weights 480"),
    "no number": (tensor(Q, with_number(np.nan)), r"self_attn\.q_proj\.weight holds what is no finite number"),
    "infinite": (tensor("model.embed_tokens.weight", with_number(np.inf)), r"embed_tokens\.weight holds what is no"),
    "too large": (tensor(Q, with_number(1e6)), r"holds 1e\+06, and f16 goes up to 65519; make bf16 or f32 of it"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_in_words_and_nothing_is_left(tmp_path: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    config = hub_config()
    arrays = hub_arrays(config)
    change(config, arrays)
    folder = write_hub(tmp_path / "hub", config, arrays, tokenizer=LLAMA / "hf", dtype="float32")
    with pytest.raises(ModelLoadError, match=words):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(("dtype", "target"), [("float16", "f16"), ("float32", "f32"), ("bfloat16", "bf16")])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_numbers_that_are_only_copied_are_looked_at_as_well(
    tmp_path: Path, dtype: str, target: str, value: float
) -> None:
    config = hub_config()
    arrays = hub_arrays(config)
    arrays[Q][3, 5] = value
    folder = write_hub(tmp_path / "hub", config, arrays, tokenizer=LLAMA / "hf", dtype=dtype)
    with pytest.raises(ModelLoadError, match=r"self_attn\.q_proj\.weight holds what is no finite number"):
        convert(folder, tmp_path / "model.gguf", target, {})
    assert nothing_left(tmp_path)


def replaced(folder: Path, name: str, content: str | bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


TOKENIZERS: dict[str, tuple[Mapping[str, str | bytes | None], str]] = {
    "none": ({"tokenizer.model": None}, r"no tokenizer here \(tokenizer\.model or tokenizer"),
    "Llama 3's own": ({"tokenizer.model": "IQ== 0\nIg== 1\n"}, r"in Hugging Face's form"),
    "cut short": ({"tokenizer.model": (LLAMA / "tokenizer.model").read_bytes()[:-700]}, r"no SentencePiece model"),
    "Unigram": ({"tokenizer.model": (fixtures() / "chatglm/chatglm-6b-tiny/ice_text.model").read_bytes()},
                r"the tokenizer \(tokenizer\.model\) says 764, and the weights 480"),
    "too large": ({"added_tokens.json": '{"more": 480}'}, r"says 481, and the weights 480"),
    "other words": ({"tokenizer.model": None, "tokenizer.json": json.dumps(
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]},
         "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "b+"}, "behavior": "Isolated"}})},
        r"how it cuts words is not known here: b\+; try llama\.cpp's convert_hf_to_gguf\.py"),
    "no byte pairs": ({"tokenizer.model": None, "tokenizer.json": json.dumps(
        {"model": {"type": "Unigram", "vocab": [["a", 0]]}})}, r"no byte-pair tokenizer \(Unigram\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_that_would_not_be_themselves_are_refused(tmp_path: Path, name: str) -> None:
    files, words = TOKENIZERS[name]
    config = hub_config()
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf")
    for file, content in files.items():
        replaced(folder, file, content)
    with pytest.raises(ModelLoadError, match=words):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    assert nothing_left(tmp_path)


def test_a_unigram_model_is_named_as_what_llama_cpp_would_cut_otherwise(tmp_path: Path) -> None:
    config = hub_config(vocab_size=800)
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config))
    shutil.copyfile(fixtures() / "chatglm/chatglm-6b-tiny/ice_text.model", folder / "tokenizer.model")
    with pytest.raises(ModelLoadError, match=r"tokenizer is no BPE.* convert_hf_to_gguf\.py converts it all the same"):
        convert(folder, tmp_path / "model.gguf", "f16", {})


def test_quantised_weights_are_refused_by_a_tensors_name(tmp_path: Path) -> None:
    from chatbridge.model_tools.safetensors_file import SafetensorsFile

    config = hub_config()
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf")
    name = "model.layers.0.self_attn.q_proj.qweight"
    packed = [output.NewTensor(name, (8, 64), "int32", 2048, lambda: [bytes(2048)])]
    output.write_tensors(folder / "model-00002-of-00002.safetensors", SafetensorsFile(packed), packed, "")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = dict.fromkeys(hub_arrays(config), "model-00001-of-00002.safetensors") | {
        name: "model-00002-of-00002.safetensors"
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ModelLoadError, match=r"it is quantised.*: it has layers\.0\.self_attn\.q_proj\.qweight"):
        convert(folder, tmp_path / "model.gguf", "f16", {})


def test_parts_of_two_models_are_not_joined(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "model"
    shutil.copytree(LLAMA / "meta-2shard", folder, copy_function=shutil.copyfile)
    shutil.copyfile(LLAMA / "tokenizer.model", tmp_path / "tokenizer.model")
    folder.chmod(0o755)
    other = torch.load(folder / "consolidated.01.pth", weights_only=True)
    other["layers.1.ffn_norm.weight"] *= 2
    torch.save(other, folder / "consolidated.01.pth")
    with pytest.raises(ModelLoadError, match=r"01\.pth: layers\.1\.ffn_norm\.weight is another one .* of two models"):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(ModelLoadError, match=r"consolidated\.01\.pth missing"):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    assert nothing_left(tmp_path)


def test_what_is_not_converted_is_sent_to_what_does(tmp_path: Path) -> None:
    config = hub_config("gemma2")
    folder = write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf")
    with pytest.raises(ModelLoadError, match=r"gemma2 .* llama\.cpp's convert_hf_to_gguf\.py"):
        convert(folder, tmp_path / "model.gguf", "f16", {})
    with pytest.raises(ModelLoadError, match=r"no 'q4_0' is made; give one of: f32, f16, bf16, q8_0.*quantize"):
        convert(LLAMA / "hf", tmp_path / "model.gguf", "q4_0", {})
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(ModelLoadError, match="it is there already"):
        convert(LLAMA / "hf", tmp_path / "model.gguf", "f16", {})


def test_numbers_that_stand_for_more_than_the_file_holds_are_not_unpacked(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"norm.weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.pth")
    with pytest.raises(ModelLoadError, match=r"norm\.weight has 4,398,046,511,104 bytes, more than the whole file"):
        Weights.of_files([tmp_path / "a.pth"])


def test_a_layer_with_a_number_out_of_reach_makes_no_million_of_them(tmp_path: Path) -> None:
    config = hub_config("qwen3")
    arrays = hub_arrays(config)
    far = {name.replace("layers.1.", "layers.999999."): array for name, array in arrays.items()}
    folder = write_hub(tmp_path / "hub", {**config, "num_hidden_layers": 1000000}, far, tokenizer=LLAMA / "hf")
    with pytest.raises(ModelLoadError, match=r"layer 1 is not there, and layer 999,999 is"):
        convert(folder, tmp_path / "model.gguf", "f16", {})


ODD: dict[str, tuple[str, Mapping[str, Any]]] = {
    "ids that are none": ("added_tokens.json", {"more": ["480"], "others": {}}),
    "a context by words": ("params.json", {"norm_eps": "small", "rope_theta": []}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_values_beside_the_weights_are_no_crash(tmp_path: Path, name: str) -> None:
    file, values = ODD[name]
    folder = tmp_path / "model"
    shutil.copytree(LLAMA / "meta-1shard", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    shutil.copyfile(LLAMA / "tokenizer.model", folder / "tokenizer.model")
    written = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).exists() else {}
    replaced(folder, file, json.dumps({**written, **values}))
    if file == "params.json":
        with pytest.raises(ModelLoadError, match="norm_eps is 'small', and should be a number"):
            convert(folder, tmp_path / "model.gguf", "f16", {})
    else:
        assert convert(folder, tmp_path / "model.gguf", "f16", {}).exists()


SOURCES = {"meta": LLAMA / "meta-2shard", "hf": LLAMA / "hf", "bloom": BLOOM / "hf"}


def disturb(folder: Path, chance: random.Random) -> None:
    """Something of what happens to files."""
    files = sorted(folder.iterdir())
    file = chance.choice(files)
    data = bytearray(file.read_bytes())
    what = chance.randrange(5)
    if what == 0:
        del data[chance.randrange(len(data)) :]
    elif what == 1:
        for _ in range(chance.randrange(1, 40)):
            data[chance.randrange(min(len(data), 4000))] = chance.randrange(256)
    elif what == 2:
        data = bytearray(chance.choice(files).read_bytes())
    elif what == 3 or file.suffix != ".json":
        data = bytearray(chance.randbytes(chance.randrange(2000)))
    else:
        values: list[Any] = [None, -1, 0, 1e99, "x", [], {}, True, 3, 480, float("nan"), ["a"], {"a": []}, 1 << 70]
        told = json.loads(data)
        for _ in range(3):
            told[chance.choice(sorted(told))] = chance.choice(values)
        data = bytearray(json.dumps(told).encode())
    file.write_bytes(data)


@pytest.mark.parametrize("name", SOURCES)
def test_whatever_happens_to_its_files_a_model_is_converted_or_refused_in_words(tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    outcomes = set()
    for number in range(300 if os.environ.get("CHATBRIDGE_FULL") else 30):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for file in SOURCES[name].iterdir():
            shutil.copyfile(file, folder / file.name)
        if name == "meta":
            shutil.copyfile(LLAMA / "tokenizer.model", folder / "tokenizer.model")
        disturb(folder, chance)
        target = tmp_path / f"{number}.gguf"
        try:
            convert(folder, target, chance.choice(["f32", "f16", "q8_0"]), {})
            assert GgufHeader(target, reader="this test").tensors
            outcomes.add("made")
        except ModelLoadError as error:
            outcomes.add("refused" if str(folder) in str(error) else f"refused without its name: {error}")
        if not target.exists():
            assert not [file for file in tmp_path.iterdir() if file.name.startswith(f"{number}.gguf")]
    assert outcomes == {"made", "refused"}
