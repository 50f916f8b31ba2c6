"""The bad files of `bad_files.txt`: each under `## name`, with its errors behind `=> `."""

from __future__ import annotations

import re
from pathlib import Path


def bad_files() -> dict[str, tuple[str, list[str]]]:
    """Each file by its name, and the errors in it."""
    found = {}
    text = Path(__file__).with_name("bad_files.txt").read_text(encoding="utf-8")
    for part in re.split(r"(?m)^## ", text)[1:]:
        name, _, rest = part.partition("\n")
        lines = rest.rstrip("\n").split("\n")
        file = "".join(f"{line}\n" for line in lines if not line.startswith("=> "))
        found[name] = (file, [line.removeprefix("=> ") for line in lines if line.startswith("=> ")])
    return found


BAD = bad_files()
