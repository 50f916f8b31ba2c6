"""LLaMA from Meta's form to Hugging Face's and back: the recorded weights to the bit, complete folders, refusals."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import ModelLoadError, inspect_model, testing
from chatbridge.cli.model.convert import convert
from chatbridge.model_files.arrays import Weights
from chatbridge.model_files.reading import weight_files
from chatbridge.model_tools.converter import Conversion
from chatbridge.model_tools.merging import llama_forms
from chatbridge.model_tools.merging.llama_layouts import LlamaSizes, params_for
from chatbridge.model_tools.merging.model_folders import open_model
from chatbridge.model_tools.merging.perplexity import logits
from chatbridge.model_tools.output import NewTensor, write_tensors
from chatbridge.model_tools.progress import Silent
from chatbridge.model_tools.safetensors_file import SafetensorsFile
from chatbridge.model_tools.torch_file import TorchFile
from chatbridge.testing import fixtures

LLAMA = fixtures() / "llama"
HF = LLAMA / "hf"
MERGED = "chinese-llama-merged-meta-2shard"
PROMPT = np.load(LLAMA / "reference_meta_1shard.npz")["p0.input_ids"][0].tolist()
RECORDED = np.load(LLAMA / "reference_meta_1shard.npz")["p0.logits"][0]

Arrays = dict[str, np.ndarray]


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    """The recorded models in Meta's form, with their tokenizer above them, as Meta's download has it."""
    folder = tmp_path / "meta"
    folder.mkdir()
    shutil.copy(LLAMA / "tokenizer.model", folder)
    for name in ("meta-1shard", "meta-2shard", MERGED):
        shutil.copytree(LLAMA / name, folder / name)
    return folder


def arrays_of(*files: Path) -> Arrays:
    with Weights.of_files(files) as weights:
        return {
            name: tensor.read() for name, tensor in weights.items() if not name.endswith(("inv_freq", "rope.freqs"))
        }


def same(found: Arrays, wanted: Arrays) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def logits_of(folder: Path) -> np.ndarray:
    with ExitStack() as files:
        model = open_model(folder, files)
        assert model.sizes is not None
        return logits(model.tensors, model.sizes, [PROMPT], Silent())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "chatbridge-report.json"}


def written(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def bytes_in(array: np.ndarray) -> list[bytes]:
    return [np.ascontiguousarray(array).tobytes()]


def write(path: Path, arrays: Mapping[str, np.ndarray], dtype: str = "") -> None:
    tensors = [NewTensor(n, a.shape, dtype or str(a.dtype), a.nbytes, partial(bytes_in, a)) for n, a in arrays.items()]
    container = SafetensorsFile(tensors) if path.suffix == ".safetensors" else TorchFile(tensors)
    write_tensors(path, container, tensors, "test")


def hub_with(folder: Path, arrays: Mapping[str, np.ndarray], **config: object) -> Path:
    """The recorded model in Hugging Face's form with other tensors and settings; None takes a key away."""
    folder.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(HF / name, folder)
    kept = {key: value for key, value in (written(HF / "config.json") | config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    write(folder / "model.safetensors", arrays)
    return folder


@pytest.fixture(scope="module")
def hub_arrays() -> Arrays:
    return arrays_of(*weight_files(HF))


# --- the records -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["meta-1shard", "meta-2shard"])
def test_metas_form_becomes_what_hugging_faces_script_made(
    meta: Path, tmp_path: Path, hub_arrays: Arrays, name: str
) -> None:
    convert(meta / name, tmp_path / "hf", "hf", {})
    same(arrays_of(*weight_files(tmp_path / "hf")), hub_arrays)
    theirs, ours = written(HF / "config.json"), written(tmp_path / "hf" / "config.json")
    # The script was given the context; Meta's form does not say it.
    unsaid = {"_name_or_path", "transformers_version", "max_position_embeddings"}
    assert {key: ours.get(key) for key in theirs if key not in unsaid} == {
        key: value for key, value in theirs.items() if key not in unsaid
    }
    assert (ours["max_position_embeddings"], ours["num_key_value_heads"]) == (2048, 4)
    np.testing.assert_allclose(logits_of(tmp_path / "hf"), RECORDED, atol=2e-4)


@pytest.mark.parametrize("parts", [1, 2])
def test_hugging_faces_form_becomes_metas_own(meta: Path, tmp_path: Path, parts: int) -> None:
    convert(HF, tmp_path / "out", "meta", {"parts": parts} if parts > 1 else {})
    for file in sorted((meta / f"meta-{parts}shard").glob("*.pth")):
        same(arrays_of(tmp_path / "out" / file.name), arrays_of(file))
    params = written(tmp_path / "out" / "params.json")
    assert {key: params[key] for key in ("dim", "n_heads", "n_layers", "norm_eps", "vocab_size")} == {
        "dim": 64, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-6, "vocab_size": -1,
    }  # fmt: skip
    np.testing.assert_allclose(logits_of(tmp_path / "out"), RECORDED, atol=2e-4)


def test_torch_reads_what_metas_code_reads(tmp_path: Path, meta: Path) -> None:
    torch = pytest.importorskip("torch")
    convert(HF, tmp_path / "out", "meta", {})
    found = torch.load(tmp_path / "out" / "consolidated.00.pth", weights_only=True)
    wanted = torch.load(meta / "meta-1shard" / "consolidated.00.pth", weights_only=True)
    assert found.keys() == wanted.keys() - {"rope.freqs"}
    assert all(torch.equal(found[name], wanted[name]) for name in found)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_there_and_back_every_byte_is_as_before(meta: Path, tmp_path: Path, parts: int) -> None:
    convert(meta / "meta-1shard", tmp_path / "first", "hf", {})
    convert(tmp_path / "first", tmp_path / "between", "meta", {"parts": parts})
    convert(tmp_path / "between", tmp_path / "second", "hf", {})
    assert bytes_of(tmp_path / "first") == bytes_of(tmp_path / "second")
    convert(tmp_path / "second", tmp_path / "again", "meta", {"parts": parts})
    assert bytes_of(tmp_path / "between") == bytes_of(tmp_path / "again")


def test_parts_that_divide_a_vocabulary_unevenly_are_joined_and_cut_again(meta: Path, tmp_path: Path) -> None:
    convert(meta / MERGED, tmp_path / "hf", "hf", {})
    found = arrays_of(tmp_path / "hf" / "model.safetensors")
    assert found["lm_head.weight"].shape == found["model.embed_tokens.weight"].shape == (691, 64)
    convert(meta / MERGED, tmp_path / "one", "meta", {})
    for folder in (tmp_path / "hf", tmp_path / "one"):
        convert(folder, tmp_path / f"back-{folder.name}", "meta", {"parts": 2})
        for file in sorted((meta / MERGED).glob("*.pth")):
            same(arrays_of(tmp_path / f"back-{folder.name}" / file.name), arrays_of(file))


@pytest.mark.parametrize("target", ["hf", "meta"])
def test_the_folder_is_complete(meta: Path, tmp_path: Path, target: str) -> None:
    source = meta / "meta-2shard"
    (source / "LICENSE").write_text("terms")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    convert(source, tmp_path / "out", target, {})
    usual = {"tokenizer.model", "chat_template.jinja", "LICENSE", "chatbridge-report.json"}
    more = {"config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
            "model.safetensors"}  # fmt: skip
    assert {file.name for file in (tmp_path / "out").iterdir()} == usual | (
        more if target == "hf" else {"params.json", "consolidated.00.pth"}
    )
    told = written(tmp_path / "out" / "chatbridge-report.json")
    assert [Path(source["path"]).name for source in told["sources"]] == [
        "consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model",
    ]  # fmt: skip
    assert inspect_model(tmp_path / "out").sound


# --- what differs between models -------------------------------------------------------------------------------------


def test_each_tensor_keeps_its_type(tmp_path: Path, hub_arrays: Arrays) -> None:
    wide = {n: a.astype(np.float32) if "norm" in n else a for n, a in hub_arrays.items()}
    folder = hub_with(tmp_path / "hf", wide)
    convert(folder, tmp_path / "meta", "meta", {"parts": 2})
    convert(tmp_path / "meta", tmp_path / "back", "hf", {})
    same(arrays_of(tmp_path / "back" / "model.safetensors"), wide)


def test_bfloat16_goes_there_and_back(tmp_path: Path, hub_arrays: Arrays) -> None:
    folder = hub_with(tmp_path / "hf", hub_arrays)
    (folder / "model.safetensors").unlink()
    bits = {name: array.view(np.uint16) for name, array in hub_arrays.items()}
    write(folder / "model.safetensors", bits, "bfloat16")
    convert(folder, tmp_path / "meta", "meta", {"parts": 2})
    convert(tmp_path / "meta", tmp_path / "back", "hf", {})
    same(arrays_of(tmp_path / "back" / "model.safetensors"), bits)
    assert written(tmp_path / "back" / "config.json")["torch_dtype"] == "bfloat16"


def test_shared_keys_are_put_in_order_by_their_own_heads(tmp_path: Path, hub_arrays: Arrays) -> None:
    shared = {n: a[:32] if "k_proj" in n or "v_proj" in n else a for n, a in hub_arrays.items()}
    folder = hub_with(tmp_path / "hf", shared, num_key_value_heads=2)
    convert(folder, tmp_path / "meta", "meta", {"parts": 2})
    assert written(tmp_path / "meta" / "params.json")["n_kv_heads"] == 2
    wk = np.concatenate([arrays_of(tmp_path / "meta" / f"consolidated.0{n}.pth")["layers.0.attention.wk.weight"]
                         for n in range(2)])  # fmt: skip
    k = shared["model.layers.0.self_attn.k_proj.weight"]
    for head in range(2):  # Meta turns neighbours, Hugging Face the halves of a head
        np.testing.assert_array_equal(wk[head * 16 : head * 16 + 16 : 2], k[head * 16 : head * 16 + 8])
        np.testing.assert_array_equal(wk[head * 16 + 1 : head * 16 + 16 : 2], k[head * 16 + 8 : head * 16 + 16])
    convert(tmp_path / "meta", tmp_path / "back", "hf", {})
    same(arrays_of(tmp_path / "back" / "model.safetensors"), shared)


def test_a_head_that_is_the_embedding_is_written_out_and_found_again(tmp_path: Path, hub_arrays: Arrays) -> None:
    tied = {name: array for name, array in hub_arrays.items() if name != "lm_head.weight"}
    folder = hub_with(tmp_path / "hf", tied, tie_word_embeddings=True)
    convert(folder, tmp_path / "meta", "meta", {})
    found = arrays_of(tmp_path / "meta" / "consolidated.00.pth")
    np.testing.assert_array_equal(found["output.weight"], found["tok_embeddings.weight"])
    convert(tmp_path / "meta", tmp_path / "back", "hf", {})
    same(arrays_of(tmp_path / "back" / "model.safetensors"), tied)
    assert written(tmp_path / "back" / "config.json")["tie_word_embeddings"] is True


def test_llama_3s_parts_have_rows_of_the_embedding(meta: Path, tmp_path: Path, hub_arrays: Arrays) -> None:
    source = meta / "meta-2shard"
    whole = arrays_of(meta / "meta-1shard" / "consolidated.00.pth")["tok_embeddings.weight"]
    for number in range(2):
        file = source / f"consolidated.0{number}.pth"
        arrays = arrays_of(file) | {"tok_embeddings.weight": whole[number * 240 : number * 240 + 240]}
        file.unlink()
        write(file, arrays)
    params = written(source / "params.json") | {"rope_theta": 500000.0, "use_scaled_rope": True}
    (source / "params.json").write_text(json.dumps(params))
    convert(source, tmp_path / "hf", "hf", {})
    same(arrays_of(tmp_path / "hf" / "model.safetensors"), hub_arrays)
    config = written(tmp_path / "hf" / "config.json")
    assert (config["rope_theta"], config["max_position_embeddings"]) == (500000.0, 131072)
    assert config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    convert(tmp_path / "hf", tmp_path / "back", "meta", {})
    params = written(tmp_path / "back" / "params.json")
    assert (params["rope_theta"], params["use_scaled_rope"]) == (500000.0, True)


def test_settings_in_the_spelling_of_transformers_5_are_read(tmp_path: Path, hub_arrays: Arrays) -> None:
    rope = {"rope_theta": 1e6, "rope_type": "default"}
    convert(hub_with(tmp_path / "hf", hub_arrays, rope_parameters=rope), tmp_path / "meta", "meta", {})
    assert written(tmp_path / "meta" / "params.json")["rope_theta"] == 1e6
    convert(tmp_path / "meta", tmp_path / "back", "hf", {})
    config = written(tmp_path / "back" / "config.json")
    assert (config["rope_theta"], config["max_position_embeddings"]) == (1e6, 16384)


def test_rows_behind_the_tokenizers_are_told_to_metas_code(tmp_path: Path, hub_arrays: Arrays) -> None:
    longer = {n: np.concatenate([a, a[:32]]) if "embed" in n or "lm_head" in n else a for n, a in hub_arrays.items()}
    convert(hub_with(tmp_path / "hf", longer, vocab_size=512), tmp_path / "meta", "meta", {})
    assert written(tmp_path / "meta" / "params.json")["vocab_size"] == 512
    convert(tmp_path / "meta", tmp_path / "back", "hf", {})
    same(arrays_of(tmp_path / "back" / "model.safetensors"), longer)


def inner_width(params: Mapping[str, Any]) -> int:
    """As Meta's code has it (llama/model.py, FeedForward)."""
    hidden = int(2 * (4 * params["dim"]) / 3)
    if "ffn_dim_multiplier" in params:
        hidden = int(params["ffn_dim_multiplier"] * hidden)
    multiple: int = params["multiple_of"]
    return multiple * ((hidden + multiple - 1) // multiple)


@given(st.integers(1, 1024).map(lambda n: 16 * n), st.integers(1, 60000))
def test_any_inner_width_is_said_so_that_metas_code_has_it(width: int, inner: int) -> None:
    assert inner_width(params_for(LlamaSizes(1, width, 1, 1, inner, 10))) == inner


@pytest.mark.parametrize(
    ("width", "inner", "multiple", "factor"),
    [(4096, 11008, 256, None), (5120, 13824, 256, None), (8192, 28672, 4096, 1.3), (4096, 14336, 1024, 1.3)],
)
def test_published_widths_are_said_as_meta_published_them(
    width: int, inner: int, multiple: int, factor: float | None
) -> None:
    said = params_for(LlamaSizes(1, width, 32, 32, inner, 10))
    assert (said["multiple_of"], said.get("ffn_dim_multiplier")) == (multiple, factor)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "config", "told"),
    [
        ({"model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float16)}, {},
         r"its tensor model.layers.0.self_attn.q_proj.bias has no place in Meta's form"),
        ({}, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "for rope_scaling, which Meta's form can't say"),
        ({}, {"attention_bias": True}, "True for attention_bias, which Meta's form can't say"),
        ({}, {"hidden_act": "gelu"}, "'gelu' for hidden_act, which Meta's form can't say"),
        ({"lm_head.weight": None}, {}, "lm_head.weight is not among its tensors, and by config.json it should be"),
        ({"model.norm.weight": None}, {}, "model.norm.weight"),
    ],
)  # fmt: skip
def test_what_metas_form_can_not_say_is_refused(
    tmp_path: Path, hub_arrays: Arrays, change: dict[str, Any], config: dict[str, Any], told: str
) -> None:
    arrays = {name: array for name, array in (hub_arrays | change).items() if array is not None}
    folder = hub_with(tmp_path / "hf", arrays, **config)
    with pytest.raises(ModelLoadError, match=re.escape(str(folder)) + ".*" + told):
        convert(folder, tmp_path / "out", "meta", {})
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]


def test_heads_of_a_width_of_their_own_have_no_form_of_metas(tmp_path: Path) -> None:
    config = testing.hub_config(head_dim=32)
    folder = testing.write_hub(tmp_path / "hf", config, testing.hub_arrays(config), tokenizer=HF)
    with pytest.raises(ModelLoadError, match=r"its heads have a width of their own \(head_dim\)"):
        convert(folder, tmp_path / "out", "meta", {})


@pytest.mark.parametrize(
    ("name", "target", "options", "told"),
    [
        ("meta-2shard", "meta", {"parts": 2}, "it has that form in 2 parts already"),
        ("meta-1shard", "hf", {"parts": 2}, "--parts is for Meta's form"),
        ("meta-1shard", "meta", {"parts": 3}, "3 parts: the heads of 4 can't be divided so"),
        ("meta-1shard", "hf", {"base": "x"}, "--base is not for making 'hf' of this"),
        ("meta-1shard", "q4_0", {}, "of which no 'q4_0' is made; give one of: .*hf, meta"),
    ],
)
def test_what_makes_no_sense_is_refused(
    meta: Path, tmp_path: Path, name: str, target: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelLoadError, match=told):
        convert(meta / name, tmp_path / "out", target, options)
    assert not (tmp_path / "out").exists()


def test_without_a_tokenizer_no_folder_would_be_complete(meta: Path, tmp_path: Path) -> None:
    (meta / "tokenizer.model").unlink()
    with pytest.raises(ModelLoadError, match=r"there is no tokenizer.model beside it"):
        convert(meta / "meta-1shard", tmp_path / "out", "hf", {})
    assert {file.name for file in tmp_path.iterdir()} == {"meta"}


def test_a_part_of_another_model_is_found(meta: Path, tmp_path: Path) -> None:
    file = meta / "meta-2shard" / "consolidated.01.pth"
    with Weights.of_files([file]) as weights:
        arrays: Arrays = {name: weights[name].read() for name in weights}
    file.unlink()
    write(file, arrays | {"norm.weight": arrays["norm.weight"] + np.float16(1)})
    with pytest.raises(ModelLoadError, match=r"norm.weight differs between the parts"):
        convert(meta / "meta-2shard", tmp_path / "out", "hf", {})


def test_damaged_files_are_told_by_their_names_and_leave_nothing(meta: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    source = meta / "meta-2shard"
    whole = {file.name: file.read_bytes() for file in source.iterdir()}
    others = (LLAMA / "hf" / "pytorch_model-00001-of-00002.bin").read_bytes()
    for turn in range(40):
        for name, data in whole.items():
            (source / name).write_bytes(data)
        name = rng.choice(["consolidated.00.pth", "consolidated.01.pth", "params.json"])
        data, kind = whole[name], turn % 4
        if kind == 0:
            data = data[: rng.randrange(len(data))]
        elif kind == 1:
            data = rng.randbytes(rng.randrange(1, 5000))
        elif kind == 2:
            data = rng.choice([others, b"{}", b"", b"[1]", b"<html>", whole["params.json"]])
        else:
            (source / name).unlink()
        if kind != 3:
            (source / name).write_bytes(data)
        if data == whole[name] and kind != 3:
            continue
        with pytest.raises(ModelLoadError, match=re.escape(str(meta)) if kind != 3 else "consolidated|params"):
            convert(source, tmp_path / "out", "hf", {})
        assert {file.name for file in tmp_path.iterdir()} == {"meta"}


class Cut(BaseException):
    """What ends a program, and not only its work."""


class Cutting(Silent):
    """Ends the program after so many bytes of what is written."""

    def __init__(self, most: int) -> None:
        self.left, self.writing = most, False

    def begin(self, doing: str, total: int) -> None:
        self.writing = doing == "writing"

    def advance(self, nbytes: int) -> None:
        if self.writing:
            self.left -= nbytes
            if self.left < 0:
                raise Cut


@pytest.mark.parametrize("most", [0, 100_000, 200_000, 330_000])
def test_a_run_that_was_ended_is_gone_on_with(meta: Path, tmp_path: Path, most: int) -> None:
    source = inspect_model(meta / "meta-1shard")
    convert(meta / "meta-1shard", tmp_path / "whole", "meta", {"parts": 2})
    with pytest.raises(Cut):
        llama_forms.convert(Conversion(source, "meta", tmp_path / "out", {"parts": 2}, Cutting(most)))
    assert not (tmp_path / "out").exists()
    made = tmp_path / "out.partial" / "consolidated.00.pth"
    time = made.stat().st_mtime_ns if made.exists() else None
    assert (time is not None) == (most >= 200_000)
    convert(meta / "meta-1shard", tmp_path / "out", "meta", {"parts": 2})
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    if time is not None:
        assert (tmp_path / "out" / made.name).stat().st_mtime_ns == time


def test_what_an_ended_run_with_other_parts_has_left_is_not_used(meta: Path, tmp_path: Path) -> None:
    source = inspect_model(meta / "meta-1shard")
    with pytest.raises(Cut):
        llama_forms.convert(Conversion(source, "meta", tmp_path / "out", {"parts": 2}, Cutting(200_000)))
    assert (tmp_path / "out.partial" / "consolidated.00.pth").exists()
    convert(meta / "meta-1shard", tmp_path / "out", "meta", {"parts": 4})
    convert(meta / "meta-1shard", tmp_path / "whole", "meta", {"parts": 4})
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
