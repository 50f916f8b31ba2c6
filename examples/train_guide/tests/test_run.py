"""The shipped file, what it was made from and what is said about it belong together."""

from __future__ import annotations

import json
from pathlib import Path

from run import BUNDLED, HERE, sha256, sources, table, tell

EVALUATION = {"dev": {"en": {"questions": 4, "share_right": 0.75, "beyond it": 2, "beyond it and declined": 1}}}


def test_the_manifest_is_of_the_shipped_file_and_of_what_it_was_made_from() -> None:
    manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["sha256"] == sha256(BUNDLED)
    assert manifest["sources"] == sources(), "what the guide is made from has changed: train it anew (run.py --ship)"


def test_the_readme_tells_the_results_of_the_manifest() -> None:
    manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    assert table(manifest["evaluation"]) in (HERE / "README.md").read_text(encoding="utf-8")


def test_a_hash_is_the_same_whatever_the_line_ends(tmp_path: Path) -> None:
    unix, windows = tmp_path / "a.txt", tmp_path / "b.txt"
    unix.write_bytes(b"one\ntwo\n")
    windows.write_bytes(b"one\r\ntwo\r\n")
    assert sha256(unix) == sha256(windows)


def test_results_are_told_twice_without_leaving_traces(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text((HERE / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    tell(readme, EVALUATION)
    once = readme.read_text(encoding="utf-8")
    tell(readme, EVALUATION)
    assert readme.read_text(encoding="utf-8") == once
    assert "| dev | en | 4 | 75.0% | 1 of 2 |" in once
    assert once.startswith("# The bundled model")
    assert "## Teach it something new" in once
