"""Fixtures that every test may use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest


@pytest.fixture(scope="session")
def scale() -> int:
    """How many times the everyday sample a test runs: 1, or 10 with CHATBRIDGE_FULL=1 (see the README)."""
    return 10 if os.environ.get("CHATBRIDGE_FULL") == "1" else 1


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a plugin package made of `code`, as pip would: `install("acme", code)` gives the folder it is in.

    It is found by this process, and by those that run with the folder as their PYTHONPATH. `entry`: the name under
    which it registers. `metadata=False` leaves a damaged installation.
    """
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)

    def make(name: str, code: str, *, entry: str = "", metadata: bool = True) -> Path:
        (site / f"{name}.py").write_text(dedent(code), encoding="utf-8")
        info = site / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text(f"[chatbridge]\n{entry or name} = {name}\n", encoding="utf-8")
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
        return site

    yield make
    for module in set(sys.modules) - before:
        if getattr(sys.modules[module], "__file__", None) and str(site) in str(sys.modules[module].__file__):
            del sys.modules[module]


@pytest.fixture
def chatbridge(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own, in an empty home folder, where `install` has put plugins."""

    def run(*arguments: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "chatbridge", *arguments],
            cwd=tmp_path,
            env=process_environment(tmp_path, variables),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return run


def process_environment(home: Path, more: dict[str, str]) -> dict[str, str]:
    """The variables of a process that knows nothing of whoever runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ}
    folders = {"HOME": home, "USERPROFILE": home, "APPDATA": home, "PYTHONPATH": home / "site"}
    return {**kept, **{name: str(folder) for name, folder in folders.items()}, "PYTHONUTF8": "1", **more}
