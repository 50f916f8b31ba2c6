"""What tests of conversions share: one is run, killed in the middle, and its files are compared."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from chatbridge_glm.converters import CONVERTERS

from chatbridge.testing import run_converter

convert = partial(run_converter, CONVERTERS)


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
