"""ChatGLM-6B packed here is what was published and recorded, to the bit, in a folder that is complete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from chatbridge_glm import quantization
from chatbridge_glm.checkpoint import EMBEDDING, HEAD, MATRICES, layer_key
from click.testing import CliRunner

from chatbridge import ModelLoadError, hashed, inspect_model
from chatbridge.cli.model.convert import command
from chatbridge.testing import CountedProgress, KilledWork

from .conftest import Load, folder_of, near
from .conversions import assert_same, contents, convert, hub_tensors
from .made_up import write_chatglm

FORMS = {"int8": (8, False), "int4": (4, False), "int4-qe": (4, True)}


@pytest.mark.parametrize("target", FORMS)
def test_what_is_made_is_what_was_recorded(target: str, tmp_path: Path) -> None:
    bits, embeddings = FORMS[target]
    recorded = folder_of(bits=bits, embeddings=embeddings)
    convert(folder_of(), target, tmp_path / "made")
    assert_same(hub_tensors(tmp_path / "made"), hub_tensors(recorded))
    config = [json.loads((folder / "config.json").read_text("utf-8")) for folder in (tmp_path / "made", recorded)]
    assert config[0] == config[1]


def test_the_folder_is_complete_and_says_how_it_was_made(tmp_path: Path, model_of: Load) -> None:
    source, made = folder_of(), tmp_path / "made"
    progress = convert(source, "int4", made)
    names = {file.name for file in made.iterdir()}
    assert names == {
        "pytorch_model.bin", "config.json", "ice_text.model", "tokenizer_config.json", "chatbridge-report.json",
    }  # fmt: skip
    assert (made / "ice_text.model").read_bytes() == (source / "ice_text.model").read_bytes()
    report = json.loads((made / "chatbridge-report.json").read_text("utf-8"))
    files = sorted(source.glob("*.bin"))
    assert [one["sha256"] for one in report["sources"]] == [one.sha256 for one in hashed(files)]
    assert report["steps"][0] == {
        "step": "pack", "bits": 4, "matrices": 12, "embeddings": False, "nbytes": progress.stages[-1][1],
    }  # fmt: skip
    assert {"torch", "numpy", "chatbridge-core"} <= report["versions"].keys()
    assert all(total == done for _, total, done in progress.stages)
    assert inspect_model(made).problems == ()
    given, own = model_of(made, tokenizer=None), model_of(source, quantization="int4")
    ids = [30, 31, 32, given.info.bidirectional_until or 0]
    near(given.logits(given.new_state(), ids), own.logits(own.new_state(), ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_become_half_precision_first(dtype: Any, tmp_path: Path) -> None:
    source = write_chatglm(tmp_path / "source", files=1)
    tensors = {name: tensor.to(dtype) for name, tensor in hub_tensors(source).items()}
    torch.save(tensors, source / "pytorch_model-00001-of-00001.bin")
    convert(source, "int8", tmp_path / "made")
    found = hub_tensors(tmp_path / "made")
    for name, tensor in tensors.items():
        if name.removesuffix(".weight").endswith(MATRICES):
            own = quantization.quantize(tensor.half(), 8)
            assert torch.equal(found[name], own.weight), name
            assert torch.equal(found[f"{name}_scale"], own.scale), name
        else:
            assert torch.equal(found[name], tensor.half()), name


def test_safetensors_are_taken_and_a_tied_head_is_packed_with_its_embedding(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    source = write_chatglm(tmp_path / "source", files=1)
    tensors = hub_tensors(source)
    tensors.pop(f"{HEAD}.weight", None)
    (source / "pytorch_model-00001-of-00001.bin").unlink()
    (source / "pytorch_model.bin.index.json").unlink()
    safetensors.save_file(tensors, source / "model.safetensors")
    convert(source, "int4-qe", tmp_path / "made")
    found = hub_tensors(tmp_path / "made")
    for end in ("weight", "weight_scale"):
        assert torch.equal(found[f"{HEAD}.{end}"], found[f"{EMBEDDING}.{end}"])
    assert not (tmp_path / "made" / "model.safetensors").exists()


def test_a_prefix_that_the_model_brings_keeps_its_type(tmp_path: Path) -> None:
    source = write_chatglm(tmp_path / "source", files=1, pre_seq_len=3)
    file = source / "pytorch_model-00001-of-00001.bin"
    key, prefix = "transformer.prefix_encoder.embedding.weight", torch.randn(3, 2 * 2 * 64)
    torch.save(torch.load(file) | {key: prefix}, file)
    convert(source, "int8", tmp_path / "made")
    assert torch.equal(hub_tensors(tmp_path / "made")[key], prefix)


def test_a_run_that_was_killed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor counts as written when it is, as in a model whose tensors are large."""
    monkeypatch.setattr("chatbridge.model_tools.output.SYNC", 1)
    source = write_chatglm(tmp_path / "source", layers=1)
    calls = convert(source, "int4", tmp_path / "whole").calls
    for kill_at in range(1, calls + 1, 4):
        made = tmp_path / f"made-{kill_at}"
        with pytest.raises(KilledWork):
            convert(source, "int4", made, CountedProgress(kill_at))
        assert not made.exists()
        progress = convert(source, "int4", made)
        assert contents(made) == contents(tmp_path / "whole")
        assert all(total == done for _, total, done in progress.stages)
    assert not list(tmp_path.glob("*.partial"))


WEIGHT, BIAS = (layer_key(1, f"{MATRICES[0]}.{end}") for end in ("weight", "bias"))


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        (WEIGHT, float("nan"), torch.float16),
        (WEIGHT, float("-inf"), torch.float16),
        (WEIGHT, 70000.0, torch.float32),
        (BIAS, 70000.0, torch.bfloat16),
    ],
)
def test_what_half_precision_does_not_have_is_refused_and_leaves_nothing(
    name: str, value: float, dtype: Any, tmp_path: Path
) -> None:
    source = write_chatglm(tmp_path / "source", files=1)
    file = source / "pytorch_model-00001-of-00001.bin"
    tensors = torch.load(file)
    tensors[name] = tensors[name].to(dtype)
    tensors[name].view(-1)[-1] = value
    torch.save(tensors, file)
    with pytest.raises(ModelLoadError, match=f"{name} holds what is no number, or greater than 65,504"):
        convert(source, "int4", tmp_path / "made")
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("int4", "have 4 bits, and 4 are asked for: it is that already"),
        ("int8", "have 4 bits, and 8 are asked for: what was lost in packing is not in it"),
    ],
)
def test_what_is_packed_is_not_packed_again(target: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=why):
        convert(folder_of(bits=4), target, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_a_shard_that_is_missing_is_told_before_anything_is_written(tmp_path: Path) -> None:
    source = write_chatglm(tmp_path / "source")
    sorted(source.glob("*.bin"))[1].unlink()
    done = CliRunner().invoke(command, [str(source), "-o", str(tmp_path / "made"), "--to", "int4"])
    assert isinstance(done.exception, ModelLoadError)
    assert "the weights have 2 parts, and pytorch_model-00002-of-00002.bin is missing" in str(done.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def test_the_command_finds_the_converter(tmp_path: Path) -> None:
    made = tmp_path / "made"
    done = CliRunner().invoke(command, [str(folder_of()), "-o", str(made), "--to", "INT4"])
    assert done.exit_code == 0, done.output
    assert inspect_model(made).quantization == "int4"
    done = CliRunner().invoke(command, [str(folder_of()), "-o", str(tmp_path / "other"), "--to", "int3"])
    assert "of which no 'int3' is made; give one of: int8, int4, int4-qe" in str(done.exception)


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A small one first, so that what is imported and set up is there before it is measured."""
    pytest.importorskip("resource")
    small = write_chatglm(tmp_path / "small", layers=1, hidden=512, inner=2048)
    large = write_chatglm(tmp_path / "large", layers=5, hidden=512, inner=2048)
    program = (
        "import resource, sys; from pathlib import Path; from chatbridge import *\n"
        "from chatbridge_glm.converters import CONVERTERS\n"
        "for source in sys.argv[1:]:\n"
        "    work = Conversion(inspect_model(Path(source)), 'int8', Path(source + '-made'))\n"
        "    CONVERTERS[0].convert(work)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(small), str(large)], capture_output=True, text=True, check=True
    )
    first, second = map(int, done.stdout.split())
    kib = 1024 if sys.platform == "linux" else 1
    weights = sum(file.stat().st_size for file in large.glob("*.bin"))
    assert weights > 30 << 20
    assert (second - first) * kib < 12 << 20
