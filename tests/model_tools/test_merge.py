"""Merging: the records of the original scripts, the order of adapters, folders, and the command."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge import inspect_model
from chatbridge.cli import main
from chatbridge.model_files.arrays import Weights
from chatbridge.model_tools.matrices import floats
from chatbridge.model_tools.merging.merge import merge
from chatbridge.model_tools.merging.model_folders import open_model
from chatbridge.model_tools.report import Report
from chatbridge.testing import hub_arrays, hub_config, write_hub

from .merging import (
    CHINESE_ALPACA,
    CHINESE_LLAMA,
    HF,
    LLAMA,
    META,
    META2,
    PROMPT,
    RECORDED,
    copied,
    logits_of,
    refused,
    report_of,
    step,
    write_arrays,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base in Meta's form that has its tokenizer, as Meta's own have it above them."""
    folder = tmp_path_factory.mktemp("meta")
    shutil.copy(LLAMA / "tokenizer.model", folder)
    for form in (META, META2):
        shutil.copytree(form, folder / form.name)
    return folder


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


def test_the_template_that_the_adapters_were_trained_with_is_told(tmp_path: Path) -> None:
    merge(HF, [CHINESE_LLAMA, CHINESE_ALPACA], tmp_path / "out", "hf", check=False)
    found = inspect_model(tmp_path / "out")
    assert (found.preset, found.preset_source) == ("chinese-alpaca", "as chatbridge-report.json says")
    report = Report("", template="vicuna")
    merge(HF, [LLAMA / "alpaca-lora"], tmp_path / "other", "hf", check=False, report=report)
    assert inspect_model(tmp_path / "other").preset == "vicuna"


def test_a_bases_own_template_counts_more_than_an_adapters_name_and_less_than_its_template(tmp_path: Path) -> None:
    base, adapter = copied(HF, tmp_path / "base"), copied(LLAMA / "alpaca-lora", tmp_path / "alpaca-lora")
    (base / "chat_template.jinja").write_text("the base's")
    merge(base, [adapter], tmp_path / "one", "hf", check=False)
    assert (inspect_model(tmp_path / "one").preset, "template" in report_of(tmp_path / "one")) == ("model", False)
    (adapter / "chat_template.jinja").write_text("the adapter's")
    merge(base, [adapter], tmp_path / "two", "hf", check=False)
    assert (tmp_path / "two" / "chat_template.jinja").read_text() == "the adapter's"


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
    biased = copied(HF, tmp_path / "biased", "config.json", attention_bias=True)
    with ExitStack() as files:
        arrays = {name: one.read(0, one.shape[0]) for name, one in open_model(HF, files).tensors.items()}
    for file in biased.glob("pytorch_model*"):
        file.unlink()
    bias = {f"model.layers.{layer}.self_attn.q_proj.bias": np.ones(64, np.float16) for layer in (0, 1)}
    write_arrays(biased / "model.safetensors", arrays | bias)
    for base, words in (
        (bent, "rope_scaling"),
        (biased, "q_proj.bias and 1 more has no place"),
    ):
        done = merge(base, [LLAMA / "alpaca-lora"], tmp_path / f"{base.name}-out", "hf")
        assert any("no perplexity was computed" in warning for warning in done.warnings)
        assert words in refused(base, [LLAMA / "alpaca-lora"], tmp_path / "out", "meta")
    with Weights.of_files([tmp_path / "biased-out" / "model.safetensors"]) as weights:
        assert (weights["model.layers.0.self_attn.q_proj.bias"].read() == 1).all()


def test_heads_of_a_width_of_their_own_are_merged_and_have_no_form_of_metas(tmp_path: Path) -> None:
    config = hub_config(head_dim=32)
    base = write_hub(tmp_path / "apart", config, hub_arrays(config), tokenizer=HF)
    adapter = copied(LLAMA / "alpaca-lora", tmp_path / "lora", "adapter_config.json", target_modules=["o_proj"])
    (adapter / "adapter_model.bin").unlink()
    pair = {"lora_A": np.ones((8, 128), np.float32), "lora_B": np.ones((64, 8), np.float32)}
    layer = "base_model.model.model.layers.0.self_attn.o_proj"
    write_arrays(adapter / "adapter_model.safetensors", {f"{layer}.{name}.weight": one for name, one in pair.items()})
    done = merge(base, [adapter], tmp_path / "out", "hf")
    assert any("no perplexity was computed" in warning for warning in done.warnings)
    assert "has no form of Meta's" in refused(base, [adapter], tmp_path / "meta", "meta")


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
    read = [Path(one["path"]).relative_to(LLAMA).as_posix() for one in report_of(tmp_path / "out")["sources"]]
    for folder in ("chinese-llama-lora", "chinese-alpaca-lora"):
        assert {f"{folder}/adapter_model.bin", f"{folder}/adapter_config.json"} <= {*read}
    assert {"hf/config.json", "chinese-alpaca-lora/tokenizer.model"} <= {*read}
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"chatbridge: {tmp_path / 'out'}: it is there already")


def test_the_report_says_what_each_adapter_is_and_does(tmp_path: Path) -> None:
    adapter = copied(LLAMA / "alpaca-lora", tmp_path / "lora", "adapter_config.json", fan_in_fan_out=True)
    base = copied(HF, tmp_path / "base")
    for file in base.glob("*token*"):
        file.unlink()
    done = merge(base, [adapter], tmp_path / "out", "hf")
    told = step(tmp_path / "out", "adapter")
    assert told.pop("norm") > 0
    assert told == {"step": "adapter", "path": str(adapter), "layers": 4, "rank": [8], "alpha": 16, "replaces": [],
                    "trained_on": json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"],
                    }  # fmt: skip
    assert f"{adapter}: fan_in_fan_out is set, and means nothing for this model's layers" in done.warnings
    assert "there is no tokenizer beside the model: put its files into the folder" in done.warnings
    assert step(tmp_path / "out", "written")["warnings"] == done.warnings
    assert step(tmp_path / "out", "written")["parts"] == 1
    assert step(tmp_path / "out", "perplexity")["checked"] is False
    assert (done.before, done.after) == (0, 0)
