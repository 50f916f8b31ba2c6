"""Files that are converted here are those that the rwkv package writes, and are made with bounded memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from chatbridge_rwkv import package
from chatbridge_rwkv.converters import CONVERTERS
from click.testing import CliRunner

from chatbridge import ModelLoadError, hashed, inspect_model
from chatbridge.cli.model.convert import command
from chatbridge.testing import CountedProgress, KilledWork, run_converter

from .conftest import CONVERTED, V4, V7, Load, converted_by_the_package, there
from .weights import write_model

convert = partial(run_converter, CONVERTERS)

SCALES = ("_mx", "_my", "_rx", "_ry")


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same names and values, and tensors with the same bits in the same places."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert (found[name].dtype, found[name].stride()) == (value.dtype, value.stride()), name
            assert torch.equal(found[name], value), name
        else:
            assert found[name] == value, name


@pytest.mark.parametrize(
    ("version", "strategy"),
    [
        (4, "cuda fp16i8 *3 -> cpu fp32 *1+"),
        (5, "cpu fp32i8"),
        (5.1, "cpu bf16"),
        (5.2, "cpu fp16i8"),
        (6, "cpu fp32 *2 -> cpu bf16i8"),
    ],
)
def test_the_file_is_the_packages_own(version: float, strategy: str, tmp_path: Path) -> None:
    """But that a matrix's scales stand behind it, and not at the end."""
    source = write_model(tmp_path / "m.pth", version, layers=7, vocabulary=96)
    convert(source, strategy, tmp_path / "made.pth")
    assert_same(torch.load(tmp_path / "made.pth"), converted_by_the_package(source, strategy, tmp_path))


def test_the_recorded_file_is_made_again(tmp_path: Path) -> None:
    convert(there(V4), "cpu fp32i8", tmp_path / "made.pth")
    found, expected = torch.load(tmp_path / "made.pth"), torch.load(there(CONVERTED))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not isinstance(value, torch.Tensor):
            assert found[name] == value, name
        elif value.dtype == torch.uint8:
            # A quotient may differ in its last digit from processor to processor, which is one step of 8 bits.
            assert int((found[name].int() - value.int()).abs().max()) <= 1, name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)


def test_the_package_loads_it(tmp_path: Path) -> None:
    made, strategy = tmp_path / "made.pth", "cpu fp32i8 *3 -> cpu fp32"
    convert(there(V4), strategy, made)
    module, logits = package.module(package.Switches(v7=False, jit=False)), []
    for path in (V4, made):
        with package.quiet():
            logits.append(module.RWKV(str(path), strategy, verbose=False).forward([3, 4, 5], None)[0])
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-4)


def test_it_loads_here_without_its_strategy_and_says_how_it_was_made(tmp_path: Path, model_of: Load) -> None:
    made = tmp_path / "made.pth"
    progress = convert(there(V4), "cpu fp32i8->cpu bf16 *2", made)
    assert model_of(made).info.details["strategy"] == "cpu fp32i8 -> cpu bf16 *2"
    assert "for the strategy 'cpu fp32i8 -> cpu bf16 *2'" in inspect_model(made).details["converted"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["made.pth", "made.pth.report.json"]
    report = json.loads((tmp_path / "made.pth.report.json").read_text("utf-8"))
    assert [one["sha256"] for one in report["sources"]] == [hashed([V4])[0].sha256]
    assert report["steps"] == [
        {
            "step": "prepare", "strategy": "cpu fp32i8 -> cpu bf16 *2", "rescale_layer": 0, "model": "RWKV-4",
            "layers": 8, "nbytes": progress.stages[-1][1],
        }
    ]  # fmt: skip
    assert all(total == done for _, total, done in progress.stages)


def test_a_run_that_was_killed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor counts as written when it is, as in a model whose tensors are large."""
    monkeypatch.setattr("chatbridge.model_tools.output.SYNC", 1)
    source = write_model(tmp_path / "m.pth", 4, layers=1, vocabulary=96)
    calls = convert(source, "cpu fp32i8", tmp_path / "whole.pth").calls
    assert calls > 40
    for kill_at in range(1, calls + 1, 6):
        made = tmp_path / "made.pth"
        with pytest.raises(KilledWork):
            convert(source, "cpu fp32i8", made, CountedProgress(kill_at))
        assert not made.exists()
        progress = convert(source, "cpu fp32i8", made)
        assert made.read_bytes() == (tmp_path / "whole.pth").read_bytes()
        assert all(total == done for _, total, done in progress.stages)
        made.unlink()
    assert not [file for file in tmp_path.iterdir() if "partial" in file.name or "journal" in file.name]


def test_what_was_left_of_another_model_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatbridge.model_tools.output.SYNC", 1)
    one, other = (write_model(tmp_path / f"{n}.pth", 4, layers=1, vocabulary=96, seed=n) for n in (1, 2))
    made, whole = tmp_path / "made.pth", tmp_path / "whole.pth"
    with pytest.raises(KilledWork):
        convert(one, "cpu fp32", made, CountedProgress(10))
    convert(other, "cpu fp32", made)
    convert(other, "cpu fp32", whole)
    assert made.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("path", "strategy", "output", "why"),
    [
        (V7, "cpu fp32", "made.pth", "this is RWKV-7, which the package maps into memory as it is"),
        (CONVERTED, "cpu fp32", "made.pth", "converted already, for the strategy 'cpu fp32i8'; take the file that"),
        (V4, "cpu fp32", "made", "the package wants a name that ends in .pth; write made.pth"),
        (V4, "cuda fp16 *3 -> gpu fp32", "made.pth", "--to: character 17: 'gpu' is no device"),
        (V4, "cpu fp16i4", "made.pth", "the package takes i4 and then ignores it"),
    ],
)
def test_what_can_not_be_had_is_refused_before_anything_is_written(
    path: Path, strategy: str, output: str, why: str, tmp_path: Path
) -> None:
    words = [str(there(path)), "-o", str(tmp_path / output), "--to", strategy]
    with pytest.raises(ModelLoadError, match=re.escape(why)):
        raise CliRunner().invoke(command, words).exception or AssertionError(words)
    assert not list(tmp_path.iterdir())


def test_the_command_finds_the_converter(tmp_path: Path) -> None:
    made = tmp_path / "made.pth"
    done = CliRunner().invoke(command, [str(there(V4)), "-o", str(made), "--to", "cpu fp32i8"])
    assert done.exit_code == 0, done.output
    assert torch.load(made)["_strategy"] == "cpu fp32i8"


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A small one first, so that what is imported and set up is there before it is measured."""
    pytest.importorskip("resource")
    sources = [write_model(tmp_path / f"{n}.pth", 4, layers=n, width=512, vocabulary=512) for n in (1, 5)]
    program = (
        "import resource, sys; from pathlib import Path; from chatbridge import *\n"
        "from chatbridge_rwkv.converters import CONVERTERS\n"
        "for source in sys.argv[1:]:\n"
        "    CONVERTERS[0].convert(Conversion(inspect_model(Path(source)), 'cpu fp32', Path(source + '.pth')))\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    words = [sys.executable, "-c", program, *map(str, sources)]
    first, second = map(int, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert sources[1].stat().st_size > 32 << 20
    assert (second - first) * (1024 if sys.platform == "linux" else 1) < 12 << 20
