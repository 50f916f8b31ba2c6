"""Fixtures that every test may use."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from chatbridge.testing import default_signals


@pytest.fixture(autouse=True)
def no_handler_is_left() -> Iterator[None]:
    """Commands that a test runs in its own process send the log to streams that are closed when it ends."""
    root = logging.getLogger()
    before, level = [*root.handlers], root.level
    yield
    for handler in [*root.handlers]:
        if handler not in before:
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def scale() -> int:
    """How many times the everyday sample a test runs: 1, or 10 with CHATBRIDGE_FULL=1 (see the README)."""
    return 10 if os.environ.get("CHATBRIDGE_FULL") == "1" else 1


Install = Callable[..., Path]
Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


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
def start_chatbridge(tmp_path: Path, warm_python: str) -> Start:
    """Starts the command line in a process of its own, in an empty home folder, where `install` has put plugins.

    `variables` are set in its environment, which has nothing else of whoever runs the tests. `cold`: by a Python of its
    own, as people do; else by one that has chatbridge imported already.
    """

    def start(*arguments: str, cold: bool = False, **variables: str) -> subprocess.Popen[str]:
        kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ}
        home = {name: str(tmp_path) for name in ("HOME", "USERPROFILE", "APPDATA")}
        with default_signals():
            return subprocess.Popen(
                [sys.executable if cold else warm_python, "-W", "error", "-m", "chatbridge", *arguments],
                cwd=tmp_path,
                env={**kept, **home, "PYTHONPATH": str(tmp_path / "site"), "PYTHONUTF8": "1", **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )

    return start


@pytest.fixture
def chatbridge(start_chatbridge: Start) -> Run:
    """Runs the command line like `start_chatbridge`, until it ends."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        with start_chatbridge(*arguments, **variables) as process:
            try:
                out, err = process.communicate(timeout=100)
            finally:
                process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run
