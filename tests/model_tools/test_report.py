"""A report says what was read and done, and is not written of what has changed meanwhile."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.template_notes import REPORT
from chatbridge.model_tools.report import Report, Source, hashed, versions


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.done = 0

    def begin(self, doing: str, total: int) -> None:
        self.begun.append((doing, total))

    def advance(self, nbytes: int) -> None:
        self.done += nbytes


def test_files_are_hashed_with_their_sizes_and_times(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"x" * ((4 << 20) + 1))
    second.write_bytes(b"")
    told = Told()
    found = hashed(iter([first, second]), told)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)]
    times = [path.stat().st_mtime_ns for path in (first, second)]
    assert found == [
        Source(str(first), (4 << 20) + 1, digests[0], times[0]),
        Source(str(second), 0, digests[1], times[1]),
    ]
    assert (told.begun, told.done) == ([("hashing", (4 << 20) + 1)], (4 << 20) + 1)
    assert hashed([first]) == found[:1]
    with pytest.raises(ModelLoadError, match="c: the file can't be read"):
        hashed([tmp_path / "c"])


def test_a_file_that_has_changed_is_told_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    report = Report("x", hashed([path]))
    report.check_sources()
    path.write_bytes(b"three")
    with pytest.raises(ModelLoadError, match="the file has changed while it was read"):
        report.check_sources()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelLoadError, match="the file has changed while it was read"):
        report.write(tmp_path / "folder")
    assert report.write(tmp_path / "file").name == "file.report.json"
    Report("x", [Source(str(path), 9, "", 0)]).check_sources()
    path.unlink()
    report.check_sources()


def test_a_report_is_json_of_all_that_was_told(tmp_path: Path) -> None:
    report = Report("make ü", [Source("p", 3, "ab", 7)])
    report.step("convert", tensors=5)
    path = report.write(tmp_path, ["numpy", "no-such-package"])
    assert path == tmp_path / REPORT
    text = path.read_text(encoding="utf-8")
    assert text.startswith('{\n  "made": "20')
    assert "make ü" in text
    told = json.loads(text)
    assert told["sources"] == [{"path": "p", "size": 3, "sha256": "ab"}]
    assert told["steps"] == [{"step": "convert", "tensors": 5}]
    assert told["versions"].keys() == {"python", "chatbridge-core", "numpy"}
    assert [file.name for file in tmp_path.iterdir()] == [REPORT]
    assert versions(["no-such-package"]) == {}
    assert len(told["made"]) == len("2026-11-30T12:00:00+00:00")


def test_a_report_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.report.json").mkdir()
    with pytest.raises(ModelLoadError, match=r"m\.report\.json: it can't be written: "):
        Report("x").write(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m.report.json"]


def test_names_that_are_no_text_read_back_as_they_were(tmp_path: Path) -> None:
    report = Report("make \udcff", [Source("p\udcfe", 3, "ab")])
    told = json.loads(report.write(tmp_path / "m").read_text(encoding="utf-8"))
    assert (told["command"], told["sources"][0]["path"]) == ("make \udcff", "p\udcfe")
