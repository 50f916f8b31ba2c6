"""Merging: the records of the original scripts, the order of adapters, other bases, and what is refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge import ModelLoadError, inspect_model
from chatbridge.cli import main
from chatbridge.model_files.arrays import Weights
from chatbridge.model_files.sentencepiece_files import read_sentencepiece
from chatbridge.model_tools.matrices import floats
from chatbridge.model_tools.merging.lora import read_adapter
from chatbridge.model_tools.merging.merge import merge
from chatbridge.model_tools.merging.model_folders import open_model
from chatbridge.model_tools.merging.perplexity import SENTENCES, encode, logits
from chatbridge.model_tools.output import NewTensor, write_tensors
from chatbridge.model_tools.progress import Silent
from chatbridge.model_tools.safetensors_file import SafetensorsFile
from chatbridge.model_tools.torch_file import TorchFile
from chatbridge.testing import fixtures
from tests.model_files.writers import write_adapter, write_hub_llama

LLAMA = fixtures() / "llama"
HF, META, META2 = LLAMA / "hf", LLAMA / "meta-1shard", LLAMA / "meta-2shard"
CHINESE_LLAMA, CHINESE_ALPACA = LLAMA / "chinese-llama-lora", LLAMA / "chinese-alpaca-lora"
RECORDED = np.load(LLAMA / "reference_hf.npz")
PROMPT = np.load(LLAMA / "reference_meta_1shard.npz")["p0.input_ids"][0].tolist()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base in Meta's form that has its tokenizer, as Meta's own have it above them."""
    folder = tmp_path_factory.mktemp("meta")
    shutil.copy(LLAMA / "tokenizer.model", folder)
    for form in (META, META2):
        shutil.copytree(form, folder / form.name)
    return folder


def logits_of(folder: Path, ids: Sequence[int]) -> np.ndarray:
    with ExitStack() as files:
        model = open_model(folder, files)
        assert model.sizes is not None
        return logits(model.tensors, model.sizes, [ids], Silent())


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "chatbridge-report.json").read_text(encoding="utf-8"))
    return found


def step(folder: Path, name: str) -> dict[str, Any]:
    return next(one for one in report_of(folder)["steps"] if one["step"] == name)


def copied(folder: Path, target: Path, file: str = "", **keys: object) -> Path:
    """A copy of a folder, with some keys of one of its files set; None takes a key away."""
    shutil.copytree(folder, target)
    if file:
        found = json.loads((target / file).read_text(encoding="utf-8")) | keys
        kept = {key: value for key, value in found.items() if value is not None}
        (target / file).write_text(json.dumps(kept), encoding="utf-8")
    return target


# --- what the original scripts computed ------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [HF, META, META2], ids=lambda base: base.name)
def test_alpaca_lora_gives_the_recorded_logits(base: Path, work: Path, tmp_path: Path) -> None:
    given = base if base is HF else work / base.name
    merge(given, [LLAMA / "alpaca-lora"], tmp_path / "out", "hf", dtype="float32")
    np.testing.assert_allclose(logits_of(tmp_path / "out", PROMPT), RECORDED["lora.p0.logits_merged"][0], atol=2e-4)
    greedy = RECORDED["lora.p0.greedy"][0]
    told = logits_of(tmp_path / "out", greedy.tolist()).argmax(axis=1)
    assert told[len(PROMPT) - 1 : -1].tolist() == greedy[len(PROMPT) :].tolist()
    with Weights.of_files([tmp_path / "out" / "model.safetensors"]) as weights:
        for layer, name in ((0, "q_proj"), (1, "v_proj")):
            made = weights[f"model.layers.{layer}.self_attn.{name}.weight"].floats()
            np.testing.assert_allclose(made, RECORDED[f"lora.merged.layers.{layer}.{name}"], atol=1e-6)


def test_rank_16_on_four_layers_with_an_early_configuration_gives_the_recorded_logits(tmp_path: Path) -> None:
    merge(HF, [LLAMA / "alpaca-lora-r16-qkvo"], tmp_path / "out", "hf", dtype="float32")
    np.testing.assert_allclose(logits_of(tmp_path / "out", PROMPT), RECORDED["lora16.p0.logits"][0], atol=2e-4)


def test_chinese_llama_in_metas_form_is_what_its_script_wrote_but_for_its_rounding(tmp_path: Path) -> None:
    merge(HF, [CHINESE_LLAMA], tmp_path / "out", "meta", parts=2)
    recorded = LLAMA / "chinese-llama-merged-meta-2shard"
    for name in ("consolidated.00.pth", "consolidated.01.pth"):
        with Weights.of_files([tmp_path / "out" / name]) as made, Weights.of_files([recorded / name]) as wanted:
            assert {key: (one.shape, one.dtype) for key, one in made.items()} == {
                key: (one.shape, one.dtype) for key, one in wanted.items()
            }
            for key in wanted:
                np.testing.assert_array_max_ulp(made[key].read(), wanted[key].read(), 1)
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == (recorded / "tokenizer.model").read_bytes()
    assert inspect_model(tmp_path / "out").sound


def test_chinese_llama_gives_the_logits_that_were_recorded_unmerged(tmp_path: Path) -> None:
    merge(HF, [CHINESE_LLAMA], tmp_path / "out", "hf", dtype="float32")
    made = logits_of(tmp_path / "out", RECORDED["chinese_llama.input_ids"][0].tolist())
    np.testing.assert_allclose(made, RECORDED["chinese_llama.logits_unmerged_fp32"][0], atol=2e-4)
    np.testing.assert_allclose(made, RECORDED["chinese_llama.logits"][0], atol=0.1)


@pytest.mark.parametrize("turned", [False, True], ids=["given in order", "given the other way round"])
@pytest.mark.parametrize("form", ["hf", "meta"])
def test_the_chain_is_merged_by_rows_whatever_its_order(turned: bool, form: Any, tmp_path: Path) -> None:
    chain = [CHINESE_LLAMA, CHINESE_ALPACA]
    done = merge(HF, chain[::-1] if turned else chain, tmp_path / "out", form)
    assert done.order == chain
    assert any("in the order of their vocabularies" in warning for warning in done.warnings) == turned
    assert step(tmp_path / "out", "order")["changed"] == turned
    greedy = RECORDED["chinese_alpaca.greedy"][0]
    ids = RECORDED["chinese_alpaca.input_ids"][0].tolist()
    np.testing.assert_allclose(logits_of(tmp_path / "out", ids), RECORDED["chinese_alpaca.logits"][0], atol=0.1)
    told = logits_of(tmp_path / "out", greedy.tolist()).argmax(axis=1)
    assert told[len(ids) - 1 : -1].tolist() == greedy[len(ids) :].tolist()
    found = inspect_model(tmp_path / "out")
    assert (found.sound, found.vocabulary, found.tokens) == (True, 692, 692)


def test_an_adapter_without_a_vocabulary_stays_where_it_is_given(tmp_path: Path) -> None:
    adapters = [CHINESE_ALPACA, LLAMA / "alpaca-lora", CHINESE_LLAMA]
    done = merge(HF, adapters, tmp_path / "out", "hf", check=False)
    assert done.order == [CHINESE_LLAMA, LLAMA / "alpaca-lora", CHINESE_ALPACA]
    assert (done.before, done.after) == (0, 0)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_in_hugging_faces_form_is_complete_whatever_the_base_was(work: Path, tmp_path: Path) -> None:
    for number, base in enumerate((HF, work / META2.name)):
        out = tmp_path / str(number)
        merge(base, [LLAMA / "alpaca-lora"], out, "hf")
        assert {file.name for file in out.iterdir()} == {
            "chatbridge-report.json", "config.json", "generation_config.json", "model.safetensors",
            "special_tokens_map.json", "tokenizer.model", "tokenizer_config.json",
        }  # fmt: skip
        found = inspect_model(out)
        assert (found.sound, found.backends, found.quantization) == (True, ("transformers",), "none (float16)")
    assert json.loads((tmp_path / "0" / "config.json").read_text()) == json.loads((HF / "config.json").read_text())
    first, second = (Weights.of_files([tmp_path / name / "model.safetensors"]) for name in "01")
    with first, second:
        assert all((first[name].read() == second[name].read()).all() for name in first)


def test_metas_form_comes_back_as_it_was_but_for_the_adapters_layers(work: Path, tmp_path: Path) -> None:
    merge(work / META2.name, [LLAMA / "alpaca-lora"], tmp_path / "out", "meta")
    for name in ("consolidated.00.pth", "consolidated.01.pth"):
        with Weights.of_files([tmp_path / "out" / name]) as made, Weights.of_files([META2 / name]) as before:
            changed = {key for key in made if not (made[key].read() == before[key].read()).all()}
            assert changed == {f"layers.{layer}.attention.{part}.weight" for layer in (0, 1) for part in ("wq", "wv")}
    assert json.loads((tmp_path / "out" / "params.json").read_text()) == json.loads((META2 / "params.json").read_text())


def test_the_bases_template_and_licence_come_along_and_large_models_have_several_files(tmp_path: Path) -> None:
    base = copied(HF, tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "LICENSE.txt").write_text("terms")
    merge(base, [CHINESE_LLAMA], tmp_path / "out", "hf", shard=100_000)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "terms"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert {*index["weight_map"].values()} == {file.name for file in files}
    assert index["metadata"]["total_size"] == step(tmp_path / "out", "written")["bytes"]
    assert inspect_model(tmp_path / "out").sound


def test_a_tied_head_that_an_adapter_brings_is_written_and_no_longer_tied(tmp_path: Path) -> None:
    base = copied(HF, tmp_path / "base", "config.json", tie_word_embeddings=True)
    for file in base.glob("pytorch_model*"):
        file.unlink()
    with ExitStack() as files:
        tensors = open_model(HF, files).tensors
        arrays = {name: one.read(0, one.shape[0]) for name, one in tensors.items() if name != "lm_head.weight"}
    write_arrays(base / "model.safetensors", arrays)
    merge(base, [CHINESE_LLAMA], tmp_path / "out", "hf")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    merge(base, [LLAMA / "alpaca-lora"], tmp_path / "tied", "hf")
    assert json.loads((tmp_path / "tied" / "config.json").read_text())["tie_word_embeddings"] is True
    with Weights.of_files([tmp_path / "tied" / "model.safetensors"]) as weights:
        assert "lm_head.weight" not in weights
    merge(base, [LLAMA / "alpaca-lora"], tmp_path / "meta", "meta")
    with Weights.of_files([tmp_path / "meta" / "consolidated.00.pth"]) as weights:
        assert (weights["output.weight"].read() == weights["tok_embeddings.weight"].read()).all()


@pytest.mark.parametrize(("dtype", "exact"), [("float16", 2**-11), ("bfloat16", 2**-8), ("float32", 0)])
@pytest.mark.parametrize("form", ["hf", "meta"])
def test_numbers_are_written_in_the_type_that_is_asked_for(dtype: str, exact: float, form: Any, tmp_path: Path) -> None:
    merge(HF, [LLAMA / "alpaca-lora"], tmp_path / "out", form, dtype=dtype, check=False)
    assert inspect_model(tmp_path / "out").quantization == f"none ({dtype})"
    with ExitStack() as files:
        tensors = open_model(tmp_path / "out", files).tensors
        made = floats(tensors["model.layers.0.self_attn.q_proj.weight"], 0, 64)
    np.testing.assert_allclose(made, RECORDED["lora.merged.layers.0.q_proj"], rtol=exact, atol=1e-7)


def test_a_llama_that_is_built_otherwise_is_merged_and_has_no_form_of_metas(tmp_path: Path) -> None:
    bent = copied(HF, tmp_path / "bent", "config.json", rope_scaling={"type": "linear", "factor": 2.0})
    apart = copied(HF, tmp_path / "apart", "config.json", head_dim=32)
    biased = copied(HF, tmp_path / "biased", "config.json", attention_bias=True)
    with ExitStack() as files:
        arrays = {name: one.read(0, one.shape[0]) for name, one in open_model(HF, files).tensors.items()}
    for file in biased.glob("pytorch_model*"):
        file.unlink()
    bias = {f"model.layers.{layer}.self_attn.q_proj.bias": np.ones(64, np.float16) for layer in (0, 1)}
    write_arrays(biased / "model.safetensors", arrays | bias)
    for base, words in (
        (bent, "rope_scaling"),
        (apart, "has no form of Meta's"),
        (biased, "q_proj.bias and 1 more has no place"),
    ):
        done = merge(base, [LLAMA / "alpaca-lora"], tmp_path / f"{base.name}-out", "hf")
        assert any("no perplexity was computed" in warning for warning in done.warnings)
        assert words in refused(base, [LLAMA / "alpaca-lora"], tmp_path / "out", "meta")
    with Weights.of_files([tmp_path / "biased-out" / "model.safetensors"]) as weights:
        assert (weights["model.layers.0.self_attn.q_proj.bias"].read() == 1).all()


# --- another base, and what is refused -------------------------------------------------------------------------------


def refused(base: Path, adapters: Sequence[Path], output: Path, form: Any = "hf", **options: Any) -> str:
    """What is said, when nothing may be made or left."""
    before = {*output.parent.iterdir()}
    with pytest.raises(ModelLoadError) as error:
        merge(base, adapters, output, form, **options)
    assert {*output.parent.iterdir()} == before
    return str(error.value)


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


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    tensors = [
        NewTensor(name, one.shape, str(one.dtype), one.nbytes, lambda one=one: [one.tobytes()])
        for name, one in arrays.items()
    ]
    write_tensors(path, SafetensorsFile(tensors) if path.suffix == ".safetensors" else TorchFile(tensors), tensors, "")


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
        ({"lora_alpha": None}, "None for lora_alpha"),
        ({"lora_alpha": "16"}, "'16' for lora_alpha"),
        ({"lora_alpha": 0}, "changes nothing"),
        ({"lora_alpha": 1e300}, "1e+300 for lora_alpha"),
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


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_tells_of_order_perplexity_and_what_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("model", "merge", str(HF), str(CHINESE_ALPACA), str(CHINESE_LLAMA), "-o", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 0
    assert "! the adapters are merged in the order of their vocabularies: chinese-llama-lora, chinese-" in printed.err
    assert "Perplexity of three sentences: 6,110.2 before, 12,88" in printed.out
    assert f"{tmp_path / 'out'} is made." in printed.out
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"chatbridge: {tmp_path / 'out'}: it is there already")
