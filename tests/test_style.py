"""The style is kept by tools: ruff for form, mypy for types, strict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Writing what nobody will read is an eighth of mypy's work; where it has run before, what is there makes it fast.
CACHE = () if (ROOT / ".mypy_cache").exists() else ("--cache-dir", os.devnull)


@pytest.mark.style
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "command", [("ruff", "check"), ("ruff", "format", "--check"), ("mypy", *CACHE)], ids=["ruff", "ruff format", "mypy"]
)
def test_tools_find_nothing(command: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
