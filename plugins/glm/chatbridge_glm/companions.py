"""The small files beside a model's weights that make its folder complete: tokenizer, configuration, code, licence.

Copies them as they are; knows names, and reads none of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from chatbridge import ModelLoadError

_PATTERNS = ("*.model", "*.json", "*.py", "*.txt", "*.md", "*.jinja", "LICENSE*", "MODEL_LICENSE*", "NOTICE*")
_OTHERS = ("*.index.json", "*report.json")
"""What tells of the old weights."""


def copy_companions(source: Path, target: Path, *, tokenizer: str) -> list[str]:
    """Copy them from one folder into another. Returns their names; `tokenizer` stands first if it is one of them.

    Raises ModelLoadError for one that can't be read.
    """
    copied = []
    for file in sorted(_companions(source)):
        try:
            shutil.copyfile(file, target / file.name)
        except OSError as error:
            raise ModelLoadError(f"{file}: the file can't be copied: {error.strerror or error}") from error
        copied.append(file.name)
    return sorted(copied, key=lambda name: name != tokenizer)


def _companions(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        wanted = any(file.match(pattern) for pattern in _PATTERNS) and not file.name.startswith(".")
        if wanted and file.is_file() and not any(file.match(pattern) for pattern in _OTHERS):
            yield file
