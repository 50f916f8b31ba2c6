"""Models of Meta's and Hugging Face's form as GGUF files: what stands in them, killed runs, memory."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from chatbridge.cli.model.convert import convert
from chatbridge.model_files.arrays import Weights
from chatbridge.model_tools.gguf import checkpoint, to_gguf
from chatbridge.testing import hub_arrays, hub_config, write_hub

from .samples import BLOOM, LLAMA, array, made, texts


@pytest.mark.parametrize("parts", ["meta-1shard", "meta-2shard"])
def test_metas_rows_stand_as_they_were_however_many_parts_there_are(tmp_path: Path, parts: str) -> None:
    header = made(LLAMA / parts, tmp_path, "f32")
    with Weights.of_files([LLAMA / "meta-1shard" / "consolidated.00.pth"]) as weights:
        for ours, theirs in (
            ("token_embd", "tok_embeddings"), ("output", "output"), ("blk.1.attn_q", "layers.1.attention.wq"),
            ("blk.0.attn_output", "layers.0.attention.wo"), ("blk.1.ffn_down", "layers.1.feed_forward.w2"),
        ):  # fmt: skip
            np.testing.assert_array_equal(array(header, f"{ours}.weight"), weights[f"{theirs}.weight"].floats())
    assert {name: header.metadata[f"llama.{name}"] for name in ("context_length", "attention.head_count_kv")} == {
        "context_length": 2048, "attention.head_count_kv": 4,
    }  # fmt: skip


def test_both_forms_of_a_model_make_the_same_tensors(tmp_path: Path) -> None:
    meta, hub = made(LLAMA / "meta-2shard", tmp_path, "f16"), made(LLAMA / "hf", tmp_path, "f32")
    for name, tensor in hub.tensors.items():
        stored = "<f2" if meta.tensors[name].kind == "F16" else "<f4"
        np.testing.assert_array_equal(array(hub, name), array(meta, name, stored).astype(np.float32))
        assert len(tensor.shape) == 2 or tensor.kind == meta.tensors[name].kind == "F32"
    assert texts(meta) == texts(hub)


@pytest.mark.parametrize(("rows", "cut"), [(True, "rows"), (False, "columns")])
def test_an_embedding_is_joined_by_the_side_on_which_it_was_cut(tmp_path: Path, rows: bool, cut: str) -> None:
    torch = pytest.importorskip("torch")
    shutil.copyfile(LLAMA / "meta-2shard" / "params.json", tmp_path / "params.json")
    shutil.copyfile(LLAMA / "tokenizer.model", tmp_path / "tokenizer.model")
    whole = torch.load(LLAMA / "meta-1shard" / "consolidated.00.pth", weights_only=True)["tok_embeddings.weight"]
    for number, part in enumerate(whole.split(240 if rows else 32, dim=0 if rows else 1)):
        name = f"consolidated.0{number}.pth"
        weights = torch.load(LLAMA / "meta-2shard" / name, weights_only=True)
        torch.save({**weights, "tok_embeddings.weight": part.clone()}, tmp_path / name)
    found = array(made(tmp_path, tmp_path, "f32"), "token_embd.weight")
    np.testing.assert_array_equal(found, whole.float().numpy(), err_msg=cut)


@pytest.mark.parametrize("target", ["f32", "f16", "bf16", "q8_0"])
def test_each_type_holds_the_nearest_numbers(tmp_path: Path, target: str) -> None:
    config = hub_config()
    arrays = hub_arrays(config)
    header = made(
        write_hub(tmp_path / "hub", config, arrays, tokenizer=LLAMA / "hf", dtype="float32"), tmp_path, target
    )
    name, kind = "blk.0.ffn_down.weight", GGMLQuantizationType[target.upper()]
    assert header.tensors[name].kind == target.upper()
    expected = quantize(arrays["model.layers.0.mlp.down_proj.weight"], kind)
    assert array(header, name, "u1").tobytes() == expected.tobytes()
    assert {tensor.kind for tensor in header.tensors.values() if len(tensor.shape) == 1} == {"F32"}
    assert header.metadata["general.file_type"] == {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}[target]


def test_rows_that_q8_0_can_not_cut_into_blocks_are_f16(tmp_path: Path) -> None:
    config = hub_config(intermediate_size=80)
    header = made(write_hub(tmp_path / "hub", config, hub_arrays(config), tokenizer=LLAMA / "hf"), tmp_path, "q8_0")
    assert (header.tensors["blk.0.ffn_down.weight"].kind, header.tensors["blk.0.ffn_up.weight"].kind) == ("F16", "Q8_0")
    steps = json.loads((tmp_path / "q8_0.gguf.report.json").read_text(encoding="utf-8"))["steps"]
    assert set(steps[2]["bytes_by_type"]) == {"q8_0", "f16", "f32"}


def test_a_head_that_is_the_embedding_is_not_stored_twice(tmp_path: Path) -> None:
    assert "output.weight" not in made(BLOOM / "hf", tmp_path).tensors
    config = hub_config(tie_word_embeddings=True)
    arrays = hub_arrays(config)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    folder = write_hub(tmp_path / "hub", config, arrays, tokenizer=LLAMA / "hf")
    assert "output.weight" not in made(folder, tmp_path, "f32").tensors


def test_names_of_bloom_may_lack_what_others_begin_with(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for file in (BLOOM / "hf").glob("*.json"):
        shutil.copyfile(file, tmp_path / file.name)
    weights = torch.load(BLOOM / "hf" / "pytorch_model.bin", weights_only=True)
    short = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    torch.save(short, tmp_path / "pytorch_model.bin")
    ours = made(tmp_path, tmp_path, "f16").path.read_bytes()
    (tmp_path / "whole").mkdir()
    theirs = made(BLOOM / "hf", tmp_path / "whole", "f16").path.read_bytes()
    assert ours[-1000:] == theirs[-1000:]


def test_the_report_names_sources_and_steps(tmp_path: Path) -> None:
    made(LLAMA / "meta-2shard", tmp_path)
    report = json.loads((tmp_path / "f16.gguf.report.json").read_text(encoding="utf-8"))
    names = [Path(source["path"]).name for source in report["sources"]]
    assert names == ["consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"]
    read, vocabulary, write, note = report["steps"]
    assert (read["sizes"]["kv_heads"], read["left_out"], vocabulary["tokens"]) == (4, ["rope.freqs"], 480)
    assert (write["target"], write["tensors"]) == ("f16", 21)
    assert "2,048 tokens are what such a model has" in note["note"]


def test_what_people_should_know_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(LLAMA / "meta-1shard", tmp_path)
    assert "note: params.json says no context: 2,048 tokens are what such a model has" in capsys.readouterr().err


def test_a_run_that_was_killed_is_gone_on_with_to_the_same_bytes(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from chatbridge.cli.model.convert import convert
from chatbridge.model_tools import output
from chatbridge.model_tools.gguf import to_gguf
output.SYNC = 1
pieces, made = to_gguf._pieces, []

def counted(planned, kind):
    made.append(planned.target)
    print(planned.target, flush=True)
    if len(made) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return pieces(planned, kind)

to_gguf._pieces = counted
convert(Path(sys.argv[1]), Path(sys.argv[2]), "q8_0", {})
"""
    source, target = LLAMA / "hf", tmp_path / "cut" / "q8_0.gguf"
    target.parent.mkdir()
    command = [sys.executable, "-c", script, str(source), str(target)]
    killed = subprocess.run([*command, "8"], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {file.name for file in target.parent.iterdir()} == {"q8_0.gguf.partial", "q8_0.gguf.journal"}
    rest = subprocess.run([*command, "999"], capture_output=True, text=True, check=True)
    assert len(killed.stdout.split()) == 8
    assert len(rest.stdout.split()) == 21 - 7
    assert {file.name for file in target.parent.iterdir()} == {"q8_0.gguf", "q8_0.gguf.report.json"}
    assert target.read_bytes() == made(source, tmp_path, "q8_0").path.read_bytes()


def test_memory_is_bounded_by_the_largest_tensor_and_not_by_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (to_gguf, checkpoint):
        monkeypatch.setattr(module, "SLICE", 1 << 18)
    peaks = []
    for layers in (1, 8):
        config = hub_config(num_hidden_layers=layers, hidden_size=512, intermediate_size=1024, num_attention_heads=8)
        folder = write_hub(tmp_path / str(layers), config, hub_arrays(config), tokenizer=LLAMA / "hf")
        convert(folder, tmp_path / "first.gguf", "f16", {})  # what is imported and kept is none of the work's memory
        (tmp_path / "first.gguf").unlink()
        tracemalloc.start()
        convert(folder, tmp_path / f"{layers}.gguf", "q8_0", {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = (tmp_path / "8" / "model.safetensors").stat().st_size
    assert size > 32 << 20
    assert peaks[1] < peaks[0] + (1 << 20)
    assert peaks[1] < 12 << 20
