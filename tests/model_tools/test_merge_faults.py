"""Merging with whatever a download, a disk or a killed run leaves: words or the right result, and nothing besides."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatbridge import ModelLoadError
from chatbridge.model_files.arrays import Weights
from chatbridge.model_tools.merging.merge import merge
from chatbridge.model_tools.output import NewTensor, write_tensors
from chatbridge.model_tools.safetensors_file import SafetensorsFile
from chatbridge.testing import fixtures
from tests.model_files.writers import (
    numbers,
    tensor,
    text,
    write_adapter,
    write_hub_llama,
    write_safetensors,
    write_torch,
)

LLAMA = fixtures() / "llama"
BASES = {"hf": LLAMA / "hf", "meta": LLAMA / "meta-2shard"}
ADAPTERS = (LLAMA / "chinese-llama-lora", LLAMA / "chinese-alpaca-lora")

Change = Callable[[bytes, int, bytes], bytes]
CHANGES: tuple[Change, ...] = (
    lambda data, at, other: data[: at % (len(data) + 1)],
    lambda data, at, other: data[at % (len(data) + 1) :],
    lambda data, at, other: data[: at % len(data)] + other + data[at % len(data) + len(other) :],
    lambda data, at, other: other,
    lambda data, at, other: data + other,
)


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def outcome(base: Path, adapters: list[Path], output: Path, form: Any) -> str:
    """What is said of files that can't be merged; "" where they are."""
    try:
        merge(base, adapters, output, form)
    except ModelLoadError as error:
        return str(error)
    return ""


def copy_all(folder: Path, form: str) -> tuple[Path, list[Path]]:
    base = shutil.copytree(BASES[form], folder / "base")
    shutil.copy(LLAMA / "tokenizer.model", base)
    return base, [shutil.copytree(adapter, folder / adapter.name) for adapter in ADAPTERS]


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(BASES)), st.integers(0, 100), st.sampled_from(CHANGES), st.integers(0, 400_000), st.binary()
)
def test_whatever_is_done_to_a_file_it_ends_in_words_or_in_a_whole_folder(
    form: str, which: int, change: Change, at: int, other: bytes
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        base, adapters = copy_all(folder, form)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        target = files[which % len(files)]
        target.write_bytes(change(target.read_bytes(), at, other))
        said = outcome(base, adapters, folder / "out", form)
        if said:
            assert str(folder) in said
            assert not [*folder.glob("out*")]
        else:
            assert [*folder.glob("out*")] == [folder / "out"]
            assert (folder / "out" / "chatbridge-report.json").exists()


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(BASES)), st.integers(0, 100), st.integers(0, 100))
def test_files_that_have_changed_places_end_in_words_or_in_a_whole_folder(form: str, one: int, other: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        base, adapters = copy_all(folder, form)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        first, second = files[one % len(files)], files[other % len(files)]
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
        said = outcome(base, adapters, folder / "out", form)
        assert str(folder) in said or (folder / "out" / "chatbridge-report.json").exists()
        assert [*folder.glob("out*")] == ([] if said else [folder / "out"])


KILLED = """
import os, sys
from pathlib import Path
from chatbridge.model_tools.merging.merge import merge
class Killer:
    doing, seen = "", 0
    def begin(self, doing, total): self.doing = doing
    def advance(self, nbytes):
        self.seen += self.doing == "merging" and nbytes > 0
        if self.seen == int(sys.argv[5]): os._exit(9)
merge(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]), sys.argv[4], shard=100_000, progress=Killer())
"""


@pytest.mark.parametrize(("form", "seen"), [("hf", 9), ("meta", 12)])
def test_a_run_that_was_killed_is_gone_on_with_and_gives_the_same_bytes(form: Any, seen: int, tmp_path: Path) -> None:
    base, (adapter, _) = copy_all(tmp_path, form)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, base, adapter, tmp_path / "out", form, str(seen)], check=False
    )
    assert ended.returncode == 9
    assert [file.name for file in tmp_path.glob("out*")] == ["out.partial"]
    left = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out.partial").glob("*.safetensors")}
    merge(base, [adapter], tmp_path / "out", form, shard=100_000)
    merge(base, [adapter], tmp_path / "whole", form, shard=100_000)
    resumed, whole = files_in(tmp_path / "out"), files_in(tmp_path / "whole")
    del resumed["chatbridge-report.json"], whole["chatbridge-report.json"]
    assert resumed == whole
    assert bool(left) == (form == "hf")
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in left} == left


def test_what_a_killed_run_left_of_another_adapter_is_not_taken(tmp_path: Path) -> None:
    base, (adapter, _) = copy_all(tmp_path, "hf")
    subprocess.run([sys.executable, "-c", KILLED, base, adapter, tmp_path / "out", "hf", "9"], check=False)
    merge(base, [LLAMA / "alpaca-lora"], tmp_path / "out", "hf", shard=100_000)
    merge(base, [LLAMA / "alpaca-lora"], tmp_path / "whole", "hf", shard=100_000)
    resumed, whole = files_in(tmp_path / "out"), files_in(tmp_path / "whole")
    del resumed["chatbridge-report.json"], whole["chatbridge-report.json"]
    assert resumed == whole


def test_what_a_killed_run_left_of_another_strength_is_not_taken(tmp_path: Path) -> None:
    base, (adapter, _) = copy_all(tmp_path, "hf")
    subprocess.run([sys.executable, "-c", KILLED, base, adapter, tmp_path / "out", "hf", "9"], check=False)
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 64}))
    merge(base, [adapter], tmp_path / "out", "hf", shard=100_000)
    merge(base, [adapter], tmp_path / "whole", "hf", shard=100_000)
    resumed, whole = files_in(tmp_path / "out"), files_in(tmp_path / "whole")
    del resumed["chatbridge-report.json"], whole["chatbridge-report.json"]
    assert resumed == whole


def test_memory_does_not_grow_with_the_matrices(tmp_path: Path) -> None:
    sizes = {"rows": 40_000, "width": 1024, "layers": 1, "inner": 2048}
    base = write_hub_llama(tmp_path / "base", **sizes)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 8, "target_modules": ["up_proj"]}))
    layer = "base_model.model.model.layers.0.mlp.up_proj"
    shapes = {f"{layer}.lora_A.weight": (8, 1024), f"{layer}.lora_B.weight": (2048, 8)}
    shapes |= {"base_model.model.model.embed_tokens.weight": (40_000, 1024)}
    write_safetensors(adapter / "adapter_model.safetensors", shapes)
    raw = bytearray((adapter / "adapter_model.safetensors").read_bytes())
    raw[-2:] = np.float16(1).tobytes()
    (adapter / "adapter_model.safetensors").write_bytes(raw)
    tracemalloc.start()
    merge(base, [adapter], tmp_path / "out", "hf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 160 << 20


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["lora_A.weight", "lora_B.weight", "lm_head.weight"])
def test_numbers_that_are_none_are_refused_with_the_tensors_name(name: str, value: float, tmp_path: Path) -> None:
    adapter = shutil.copytree(ADAPTERS[0], tmp_path / "adapter")
    with Weights.of_files([adapter / "adapter_model.bin"]) as weights:
        arrays = {key: one.read().copy() for key, one in weights.items()}
    broken = next(key for key in arrays if name in key)
    arrays[broken][0, 0] = value
    tensors = [
        NewTensor(key, one.shape, str(one.dtype), one.nbytes, lambda one=one: [one.tobytes()])
        for key, one in arrays.items()
    ]
    (adapter / "adapter_model.bin").unlink()
    write_tensors(adapter / "adapter_model.safetensors", SafetensorsFile(tensors), tensors, "")
    said = outcome(BASES["hf"], [adapter], tmp_path / "out", "hf")
    assert "holds numbers that are none" in said
    layer = broken.removeprefix("base_model.model.").removesuffix(f".{name}")
    assert (layer if "lora" in name else "lm_head") in said
    assert not [*tmp_path.glob("out*")]


def test_a_rank_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"r": 100_000, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {f"{layer}.lora_A.weight": (100_000, 64), f"{layer}.lora_B.weight": (64, 100_000)}
    write_safetensors(adapter / "adapter_model.safetensors", shapes)
    assert "has the rank 100,000" in outcome(BASES["hf"], [adapter], tmp_path / "out", "hf")


def test_a_number_that_is_named_over_and_over_does_not_fill_the_memory(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {}, target_modules=["q_proj"])
    before, between, after = tensor("0", (1, 1), "float16").split(numbers((1, 1)))
    many = before + numbers((1 << 20, 64)) + between + numbers((0, 0)) + after
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    items = {
        f"{layer}.lora_A.weight": tensor("1", (4, 64)), f"{layer}.lora_B.weight": tensor("2", (64, 4)),
        "base_model.model.model.embed_tokens.weight": many, "base_model.model.lm_head.weight": many,
    }  # fmt: skip
    pickle = b"\x80\x02}(" + b"".join(text(name) + item for name, item in items.items()) + b"u."
    write_torch(adapter / "adapter_model.bin", {"0": (1, 1), "1": (4, 64), "2": (64, 4)}, pickle=pickle)
    (adapter / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": (1 << 20) - 1}}}))
    tracemalloc.start()
    said = outcome(BASES["hf"], [adapter], tmp_path / "out", "hf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "more than the whole file" in said
    assert peak < 64 << 20
