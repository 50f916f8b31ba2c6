"""Benchmarks are seldom run, and never by the tests: each at least starts, with the values that it asks for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
REQUIRED = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("plugins/*/pyproject.toml"))
PROGRAMS = [path for path in sorted(FOLDER.glob("*.py")) if "ArgumentParser(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_each_benchmark_starts(program: Path) -> None:
    asked = subprocess.run([sys.executable, program, "--help"], capture_output=True, text=True, timeout=120)
    missing = re.search(r"^ModuleNotFoundError: No module named '([\w.]+)'", asked.stderr, re.MULTILINE)
    if missing and re.search(rf'"{missing[1].replace("_", "[-_]")}\b', REQUIRED):
        pytest.skip(f"{missing[1]} is not installed")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("usage:")
