"""A home without anything in it, and a plugin with a model that does as it is told, found as installed ones are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests' own modules; tests are imported by path

BOTS = """
models:
  told: {backend: obedient, template: alpaca}
  other: {backend: obedient, template: alpaca}
  stuck: {backend: obedient, template: alpaca, stuck: true}
  endless: {backend: toy, template: chatml, context_length: 1000000, eos_every: 1000000000}
  broken: {backend: obedient, template: alpaca, broken: the file is gone}
"""


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put on the path: `obedient.py` and what an installer would write about it."""
    folder = tmp_path_factory.mktemp("plugin")
    source = Path(__file__).with_name("obedient.py")
    (folder / "obedient.py").write_text(source.read_text("utf-8"), "utf-8")
    about = folder / "obedient-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: obedient\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[chatbridge]\nobedient = obedient\n")
    return folder


@pytest.fixture
def environment(plugin: Path, tmp_path: Path) -> dict[str, str]:
    """Variables for the program under test."""
    (tmp_path / "bots.yaml").write_text(BOTS, "utf-8")
    return {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "SYSTEMROOT", "TMPDIR")},
        "HOME": str(tmp_path),
        "APPDATA": str(tmp_path),
        "PYTHONPATH": str(plugin),
        "PYTHONIOENCODING": "utf-8",
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "USER": "ann",
        "LOGNAME": "ann",
    }
