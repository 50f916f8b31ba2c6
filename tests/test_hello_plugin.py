"""The example of a third-party package: pip installs it, chatbridge finds it, and it passes the kit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "hello_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip has installed the example into."""
    folder = tmp_path_factory.mktemp("site")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", folder, EXAMPLE], check=True)
    return folder


def run(installed: Path, *arguments: str, cwd: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [python, "-m", *arguments], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )


def test_it_is_found_with_all_that_it_offers(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, "chatbridge", "plugins", "--json", cwd=tmp_path)
    records = {record["name"]: record for record in json.loads(listed.stdout)}
    assert records["hello"]["version"] == "1.0.0"
    assert records["hello"]["reason"] == ""
    assert records["hello"]["offers"] == {
        "backends": ["imitator"],
        "frontends": ["lines"],
        "templates": ["letter"],
        "chat_commands": ["hello"],
    }


def test_its_keys_are_checked_like_our_own(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "bots.yaml").write_text(
        "models:\n  parrot: {backend: imitator, letters: 99, template: letter}\n"
        "bots:\n  try: {frontend: lines, prot: 7777}\n",
        encoding="utf-8",
    )
    checked = run(installed, "chatbridge", "check", cwd=tmp_path)
    assert checked.returncode == 1
    assert checked.stdout.splitlines() == [
        "bots.yaml:2:40: `letters` has to be at most 16",
        "bots.yaml:4:26: there is no key 'prot' for frontend 'lines'; did you mean 'port'?",
    ]


def test_it_passes_the_kit(installed: Path, tmp_path: Path, warm_python: str) -> None:
    copy = shutil.copytree(
        EXAMPLE, tmp_path / "hello", ignore=shutil.ignore_patterns("chatbridge_hello", "__pycache__")
    )
    command = ("pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(copy))
    tested = run(installed, *command, cwd=copy, python=warm_python)
    assert tested.returncode == 0, tested.stdout + tested.stderr
