"""What tests of conversions share: one is run, killed in the middle, and its files are compared."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from chatbridge_glm.converters import CONVERTERS

from chatbridge import Conversion, Report, inspect_model


class Killed(BaseException):
    """What ends a program, and not only its work."""


class Progress:
    """Counts what it is told; `kill_at`: the call of `advance` that never returns."""

    def __init__(self, kill_at: int = 0) -> None:
        self.stages: list[list[Any]] = []
        self.calls, self._kill_at = 0, kill_at

    def begin(self, doing: str, total: int) -> None:
        self.stages.append([doing, total, 0])

    def advance(self, nbytes: int) -> None:
        self.calls += 1
        if self.calls == self._kill_at:
            raise Killed
        self.stages[-1][2] += nbytes


def convert(source: Path, target: str, output: Path, progress: Progress | None = None) -> Progress:
    """As `chatbridge model convert` does it."""
    found, progress = inspect_model(source), progress or Progress()
    converter = next(one for one in CONVERTERS if one.reads(found) and one.writes(target))
    work = Conversion(found, target, output, {}, progress, Report(f"model convert --to {target}"))
    assert converter.check is not None
    converter.check(work)
    converter.convert(work)
    return progress


def shards(folder: Path) -> list[dict[str, Any]]:
    """The tensors of each shard in SAT's form."""
    within = folder / (folder / "latest").read_text(encoding="utf-8")
    return [torch.load(file)["module"] for file in sorted(within.glob("mp_rank_*.pt"))]


def hub_tensors(folder: Path) -> dict[str, Any]:
    """All tensors of a folder in the hub's form."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.bin")):
        found |= torch.load(file)
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same names, and behind them the same bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def contents(folder: Path) -> dict[str, str]:
    """A hash of each file but the report, which has a date."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "chatbridge-report.json"
    }
