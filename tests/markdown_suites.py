"""Fetches the Markdown that other projects test themselves with, as lists of texts. Copies none of it into this one.

Their source distributions come from the package index by pip: the examples of CommonMark and GFM (in markdown-it-py and
marko), and the tests of two programs that write Markdown for Telegram. `tests/delivery/test_shown.py` reads the folder.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_EXAMPLE = re.compile(r"^`{32} example.*\n([\s\S]*?)^\.\n[\s\S]*?^`{32}$", re.MULTILINE)
_FIXTURE = re.compile(r"^.*\n\.\n([\s\S]*?)^\.\n[\s\S]*?^\.$", re.MULTILINE)


def _specification(text: str) -> Iterator[str]:
    for example in _EXAMPLE.finditer(text):
        yield example[1].replace("→", "\t")


def _fixtures(text: str) -> Iterator[str]:
    for example in _FIXTURE.finditer(text):
        yield example[1]


def _literals(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


SUITES: dict[str, list[tuple[str, Callable[[str], Iterator[str]]]]] = {
    "markdown-it-py": [(r"tests/test_port/fixtures/.*\.md$", _fixtures)],
    "marko": [(r"tests/spec/(commonmark|gfm)\.txt$", _specification)],
    "telegramify-markdown": [(r"tests/test_.*\.py$", _literals)],
    "chatgpt-md-converter": [(r"tests/test_.*\.py$", _literals)],
}
MAX_LENGTH = 6_000


def fetch(package: str, folder: Path) -> Path:
    """The source distribution of a package."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        package,
        "-d",
        str(folder),
        package,
    ]
    subprocess.run(pip, check=True)
    return next(folder.glob("*.tar.gz"))


def inputs(package: str, archive: Path) -> list[str]:
    """What it tests itself with, each text once."""
    found: dict[str, None] = {}
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            for pattern, read in SUITES[package]:
                file = files.extractfile(member) if re.search(pattern, member.name) else None
                for text in read(file.read().decode()) if file is not None else ():
                    if text.strip() and len(text) <= MAX_LENGTH and not re.search("[\ud800-\udfff]", text):
                        found[text] = None
    return list(found)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for package in SUITES:
        with tempfile.TemporaryDirectory() as temporary:
            texts = inputs(package, fetch(package, Path(temporary)))
        (folder / f"{package}.json").write_text(json.dumps(texts, ensure_ascii=False, indent=1), encoding="utf-8")
        print(f"{package}: {len(texts)} texts")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
