"""What can't be loaded is refused in words: what it is, where, and what to do."""

from __future__ import annotations

import json
import math
import pickle
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from chatbridge_glm import files
from chatbridge_glm.backend import load
from chatbridge_glm.checkpoint import EMBEDDING, PREFIX, layer_key
from chatbridge_glm.options import GlmOptions
from pydantic import ValidationError

from chatbridge import ModelLoadError, TensorInfo

from .conftest import TOKENIZER, folder_of, opened, options_for
from .made_up import write_chatglm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that loads, to be spoilt."""
    return write_chatglm(tmp_path / "model")


def shard(folder: Path, number: int = 1) -> Path:
    return folder / f"pytorch_model-{number:05}-of-00002.bin"


def change(path: Path, what: Callable[[dict], object]) -> None:
    """Change a JSON file or a file of torch's in place."""
    if path.suffix == ".json":
        values = json.loads(path.read_text(encoding="utf-8"))
        what(values)
        path.write_text(json.dumps(values), encoding="utf-8")
    else:
        values = torch.load(path, weights_only=True)
        what(values)
        torch.save(values, path)


def set_to(key: str, value: object) -> Callable[[dict], object]:
    return lambda values: values.__setitem__(key, value)


def refused(path: Path, why: str, **options: object) -> None:
    with pytest.raises(ModelLoadError, match=why):
        load(options_for(path, **options), lambda share, doing: None)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1740000000\n"


def test_half_a_download(folder: Path) -> None:
    whole = shard(folder).read_bytes()
    for content, why in (
        (
            LFS,
            rf"{shard(folder).name}: this is a Git LFS pointer .*, which has 1,740,000,000 bytes",
        ),
        (whole[: len(whole) // 2], r"[\d,]+ bytes are there, and its tensors alone take [\d,]+; download it again"),
        (b"<!DOCTYPE html><html>", r"this is a web page and not the file"),
        (b"", r"the file is empty"),
        (b"ggml\0\0\0\0", r"another program of GGML's; take the one that it was made from"),
    ):
        shard(folder).write_bytes(content)
        refused(folder, why)
    shard(folder).unlink()
    refused(folder, rf"the weights have 2 parts, and {shard(folder).name} is missing; download all of them")


def test_half_a_download_of_safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor for n in (1, 2) for name, tensor in torch.load(shard(folder, n), weights_only=True).items()}
    save_file(tensors, folder / "model.safetensors")
    opened(folder).close()
    whole = (folder / "model.safetensors").read_bytes()
    for content, why in (
        (whole[:-9], r"[\d,]+ of [\d,]+ bytes are there; download it again"),
        (whole[:99], r"its beginning alone has [\d,]+"),
        (LFS, r"Git LFS pointer"),
    ):
        (folder / "model.safetensors").write_bytes(content)
        refused(folder, why)


def test_a_file_that_wants_to_run_code_runs_none(folder: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return (Path.write_text, (tmp_path / "harm", "done"))

    torch.save({"x": Harmful()}, shard(folder), pickle_module=pickle)
    refused(folder, r"this file wants to run code")
    assert not (tmp_path / "harm").exists()


def test_what_is_missing_is_named(folder: Path) -> None:
    change(shard(folder), lambda tensors: tensors.pop(layer_key(0, "attention.dense.weight"), None))
    change(shard(folder, 2), lambda tensors: tensors.pop(layer_key(0, "attention.dense.weight"), None))
    refused(folder, r"transformer.layers.0.attention.dense.weight is in none of the files; a part of the download")


def test_files_of_different_models(folder: Path) -> None:
    change(folder / "config.json", set_to("hidden_size", 128))
    refused(folder, r"has the shape \[64\], and config.json says \[128\]: they do not belong together")
    change(folder / "config.json", set_to("hidden_size", 64))
    change(folder / "config.json", set_to("num_layers", 1))
    refused(folder, r"the files hold 2 layers, and config.json says 1")


def test_a_damaged_index(folder: Path) -> None:
    index = folder / "pytorch_model.bin.index.json"
    index.write_text("{", encoding="utf-8")
    refused(folder, r"pytorch_model.bin.index.json: this is no JSON")
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}), encoding="utf-8")
    refused(folder, r"'../../etc/passwd' is no name of a file beside it")
    for name in (5, None, "", ".."):
        index.write_text(json.dumps({"weight_map": {"x": name}}), encoding="utf-8")
        refused(folder, rf"{name!r} is no name of a file beside it")
    index.write_text("[" * 100_000, encoding="utf-8")
    refused(folder, r"this is no JSON")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("num_layers", (0, -1, 10**30)),
        ("num_attention_heads", (0, -1)),
        ("max_sequence_length", (0, 10**30, math.inf)),
        ("layernorm_epsilon", (math.nan, -1)),
    ],
)
def test_sizes_that_no_model_has(folder: Path, key: str, values: tuple[float, ...]) -> None:
    for value in values:
        change(folder / "config.json", set_to(key, value))
        refused(folder, r"the entry .* is missing or no number that could be")


def test_damage_anywhere_in_a_file_is_told_in_words(folder: Path) -> None:
    for file, places in ((shard(folder), 3000), (folder / "ice_text.model", 60_000)):
        whole, draw = file.read_bytes(), random.Random(3)
        for _ in range(12):
            damaged = bytearray(whole)
            for _ in range(64):
                damaged[-draw.randrange(1, places)] = draw.randrange(256)
            file.write_bytes(damaged)
            with suppress(ModelLoadError):
                opened(folder).close()
        file.write_bytes(whole)


def test_the_beginning_of_safetensors_is_looked_over(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    good = {"dtype": "F16", "shape": [2, 1], "data_offsets": [0, 4]}

    def write(header: object) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))

    write({"x": good, "__metadata__": {"format": "pt"}})
    assert files.look(file).tensors == {"x": TensorInfo((2, 1), "float16", 4)}
    bad = [{"data_offsets": []}, {"data_offsets": "ab"}, {"data_offsets": [4, 0]}, {"data_offsets": [0.0, 4]}]
    bad += [{"shape": 5}, {"shape": ["a"]}, {"shape": [-1]}, {"shape": None}]
    for header in ([], None, b"[" * 100_000, {"x": 5}, {"x": {}}, *({"x": {**good, **one}} for one in bad)):
        write(header)
        with pytest.raises(ModelLoadError, match="its header is damaged"):
            files.look(file)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"model_type": "chatglm", "multi_query_attention": True}, r"ChatGLM2, ChatGLM3 or a later GLM"),
        ({"model_type": "llama"}, r"a model of type 'llama', and no ChatGLM-6B; take `backend: transformers`"),
        ({}, r"a model that does not say its type"),
        ({"model_type": "chatglm"}, r"the entry 'gmask_token_id' is missing or no number"),
        ([], r"no config.json of a model"),
    ],
)
def test_other_models_are_told_apart(folder: Path, values: object, why: str) -> None:
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    refused(folder, why)


def test_what_is_no_folder_of_a_model(tmp_path: Path, folder: Path) -> None:
    refused(shard(folder), r"is a file; name the folder that it is in")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"neither config.json, as in ChatGLM-6B's folder, nor `latest`")
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    refused(folder, r"there are no weights: neither pytorch_model\*.bin nor \*.safetensors")
    options = GlmOptions.model_validate({"path": tmp_path / "nothing"})
    with pytest.raises(ModelLoadError, match="there is no such folder; fetch the model first"):
        load(options, lambda share, doing: None)


def test_packed_files_are_packed_in_no_other_way() -> None:
    refused(folder_of(bits=8), r"the files hold weights of 8 bits already, and what was lost", quantization="int4")
    refused(folder_of(bits=4), r"the files hold weights of 4 bits already", quantization="none")


def test_prefixes_of_other_models(tmp_path: Path, folder: Path) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(folder_of(prefix=True), tuned)
    weights = tuned / "pytorch_model.bin"
    refused(folder, r"numbers for each of its \d+ tokens, and this model takes 256 \(2 x 2 layers x 64\)", prefix=tuned)
    own = folder_of()
    refused(own, r"adapter.*no such|there is no P-Tuning prefix in it", adapters={"law": {"prefix": own}})
    change(tuned / "config.json", set_to("pre_seq_len", 77))
    refused(own, r"config.json says pre_seq_len 77, and the prefix has \d+ tokens", prefix=tuned)
    (tuned / "config.json").unlink()
    opened(own, prefix=tuned).close()
    opened(own, prefix=weights).close()
    change(weights, lambda tensors: tensors[f"{PREFIX}embedding.weight"].fill_(float("nan")))
    refused(own, r"the prefix holds what is no number", prefix=tuned)
    refused(tuned, r"neither config.json")


def test_a_prefix_is_no_model() -> None:
    refused(folder_of(prefix=True), r"this is a P-Tuning prefix and no model; give it under adapters: NAME: prefix:")


def test_a_prefix_that_config_json_promises_is_never_left_to_chance(folder: Path) -> None:
    change(folder / "config.json", set_to("pre_seq_len", 8))
    refused(folder, r"config.json says pre_seq_len 8, and there is no such prefix.*would go on with a random one")
    values = torch.randn(8, 2 * 2 * 64)
    change(shard(folder), set_to(f"{PREFIX}embedding.weight", values))
    change(
        folder / "pytorch_model.bin.index.json",
        set_to("weight_map", {"a": shard(folder).name, "b": shard(folder, 2).name}),
    )
    model = opened(folder)
    assert model.info.details["prefixes"] == "all of 8 tokens"
    model.close()


def test_a_projected_prefix_is_the_one_that_the_projection_gives(folder: Path, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    sizes = {"embedding.weight": (4, 64), "trans.0.weight": (64, 64), "trans.0.bias": (64,),
             "trans.2.weight": (256, 64), "trans.2.bias": (256,)}  # fmt: skip
    parts = {name: torch.randn(size, generator=draw) / 8 for name, size in sizes.items()}
    torch.save({f"{PREFIX}{name}": part for name, part in parts.items()}, tmp_path / "projected.bin")
    encoder = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 256))
    encoder.load_state_dict({name.removeprefix("trans."): part for name, part in parts.items() if "trans" in name})
    with torch.no_grad():
        torch.save({f"{PREFIX}embedding.weight": encoder(parts["embedding.weight"])}, tmp_path / "plain.bin")
    found = []
    for name in ("projected", "plain"):
        model = opened(folder, prefix=tmp_path / f"{name}.bin")
        found.append(model.logits(model.new_state(), [7, model.info.bidirectional_until or 0])[-1])
        model.close()
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_a_vocabulary_that_does_not_fit(folder: Path) -> None:
    change(folder / "config.json", set_to("bos_token_id", 17))
    refused(folder, r"ice_text.model: the model's id for <sop> is 17, and this vocabulary has none that fits")


def test_a_vocabulary_with_pictures_is_told_by_its_ids(tmp_path: Path) -> None:
    names = ("bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id")
    own = json.loads((folder_of() / "config.json").read_text(encoding="utf-8"))
    moved = {name: own[name] + 30 for name in names}
    full = write_chatglm(tmp_path / "full", **moved, vocab_size=own["vocab_size"] + 30)
    slim = write_chatglm(tmp_path / "slim")
    # The weights were made slim, and the configuration was left as it was.
    old = write_chatglm(tmp_path / "old")
    for name, value in {**moved, "vocab_size": own["vocab_size"] + 30}.items():
        change(old / "config.json", set_to(name, value))
    firsts, sops = [], []
    for path in (full, slim, old):
        model = opened(path, tokenizer=TOKENIZER)
        firsts.append(model.tokenizer.encode("the fox", start=True)[0])
        sops.append(model.info.bidirectional_until)
        assert model.info.vocab_size == own["vocab_size"] + (30 if path == full else 0)
        model.close()
    assert firsts == [firsts[1] + 30, firsts[1], firsts[1]]
    assert sops == [own["bos_token_id"] + 30, own["bos_token_id"], own["bos_token_id"]]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"device": "gpu"}, r"'gpu' is no device; write auto, or of cpu, cuda, cuda:1, mps and disk"),
        ({"device": ["cpu", "cpu"]}, r"a device stands there twice"),
        ({"quantization": "int3"}, r"'auto', 'none', 'int8' or 'int4'"),
        ({"dtype": "half"}, r"'auto', 'fp32', 'bf16' or 'fp16'"),
        ({"kernel": True}, r"kernel"),
    ],
)
def test_options_that_are_none(options: dict, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        GlmOptions.model_validate({"path": "x", **options})


def test_more_context_than_there_are_positions(folder: Path) -> None:
    refused(folder, r"context_length: 4000 is more than the 128 that the model can", context_length=4000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_cards_that_are_not_there(folder: Path) -> None:
    refused(folder, r"device: cuda is not there: torch sees 0 NVIDIA cards", device="cuda", dtype="fp16")


def test_layers_that_do_not_add_up(folder: Path) -> None:
    refused(folder, r"device: the numbers make 3 layers, and the model has 2", device={"cpu": 3})


def test_the_embedding_of_every_form_is_there(folder: Path) -> None:
    change(shard(folder), lambda tensors: tensors.pop(f"{EMBEDDING}.weight", None))
    change(shard(folder, 2), lambda tensors: tensors.pop(f"{EMBEDDING}.weight", None))
    refused(folder, r"word_embeddings.weight is in none of the files")
