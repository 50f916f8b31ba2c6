"""The report that lies beside what was made: its sources with sizes and hashes, each step, and the versions at work.

JSON that people can read and programs can check. Knows no format of models.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.template_notes import report_of
from chatbridge.model_tools.output import cant_write
from chatbridge.model_tools.progress import Silent, WorkProgress
from chatbridge.operations.printable import as_json
from chatbridge.plugins.packages import CORE

NOTE = "note"
"""The step that tells people of something which they should know; its fact has the same name."""

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read. `size` in bytes; `sha256` in hexadecimal digits; `modified`: when it was changed last, in
    nanoseconds as the system has them, 0 where it is not known."""

    path: str
    size: int
    sha256: str
    modified: int = 0


@dataclass(slots=True)
class Report:
    """What is done to make something, written down as it is done. `command`: in the words of the command line.

    `template`: the preset that what is made is talked to by, "" where its own chat template or nothing tells it.
    """

    command: str
    sources: list[Source] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    template: str = ""

    def step(self, what: str, **facts: Any) -> None:
        """One step, with the numbers that belong to it. `facts`: values that JSON has."""
        self.steps.append({"step": what, **facts})

    def check_sources(self) -> None:
        """Raise ModelLoadError for a file that has changed since it was hashed: the report would not be true."""
        for source in self.sources:
            with suppress(OSError):  # one that was deleted was read to its end, or reading it failed
                now = Path(source.path).stat()
                if source.modified and (now.st_size, now.st_mtime_ns) != (source.size, source.modified):
                    raise ModelLoadError(
                        f"{source.path}: the file has changed while it was read; run the command again when it is whole"
                    )

    def write(self, output: Path, packages: Sequence[str] = ("gguf", "numpy")) -> Path:
        """Write it into a folder, or beside a file. `packages`: whose versions are told besides chatbridge's.

        Raises ModelLoadError where it can't be written, and for a folder whose sources have changed (`check_sources`).
        """
        if output.is_dir():  # which gets its name when the report is in it
            self.check_sources()
        path = report_of(output)
        named = {"template": self.template} if self.template else {}
        told: dict[str, Any] = {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self.command,
            **named,
            "sources": [{"path": s.path, "size": s.size, "sha256": s.sha256} for s in self.sources],
            "steps": self.steps,
            "versions": {"python": platform.python_version(), **versions((CORE, *packages))},
        }
        whole = path.with_name(f"{path.name}.partial")
        try:
            whole.write_text(as_json(told, 2) + "\n", encoding="utf-8")
            whole.replace(path)
        except OSError as error:
            with suppress(OSError):
                whole.unlink(missing_ok=True)
            raise cant_write(path, error) from error
        return path


def versions(packages: Iterable[str]) -> Mapping[str, str]:
    """Which versions of packages are installed; those that are not are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hashed(paths: Iterable[Path], progress: WorkProgress | None = None) -> list[Source]:
    """Size and hash of each file. Raises ModelLoadError for one that can't be read."""
    paths, progress = list(paths), progress or Silent()
    try:
        progress.begin("hashing", sum(path.stat().st_size for path in paths))
        return [_hashed(path, progress) for path in paths]
    except OSError as error:
        raise ModelLoadError(f"{error.filename}: the file can't be read: {error.strerror or error}") from error


def _hashed(path: Path, progress: WorkProgress) -> Source:
    digest, size, buffer = hashlib.sha256(), 0, bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        modified = os.fstat(file.fileno()).st_mtime_ns
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            size += count
            progress.advance(count)
    return Source(str(path), size, digest.hexdigest(), modified)
