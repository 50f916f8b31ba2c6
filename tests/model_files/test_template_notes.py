"""Which report a template is read from: a folder's own, a file's own, then that of the file's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.template_notes import REPORT, noted_template


def report(path: Path, template: str) -> None:
    path.write_text(f'{{"template": "{template}"}}', encoding="utf-8")


def test_a_file_has_its_own_report_or_that_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    assert noted_template(tmp_path / "a.gguf") == ("", "")
    report(tmp_path / REPORT, "alpaca")
    assert noted_template(tmp_path / "a.gguf") == ("alpaca", REPORT)
    report(tmp_path / "a.gguf.report.json", "vicuna")
    assert noted_template(tmp_path / "a.gguf") == ("vicuna", "a.gguf.report.json")


def test_a_folder_has_nothing_of_the_one_that_it_lies_in(tmp_path: Path) -> None:
    report(tmp_path / REPORT, "alpaca")
    (tmp_path / "other").mkdir()
    assert noted_template(tmp_path) == ("alpaca", REPORT)
    assert noted_template(tmp_path / "other") == ("", "")


def test_what_is_no_name_names_nothing_and_what_is_damaged_is_told(tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text('{"template": 3}')
    assert noted_template(tmp_path) == ("", REPORT)
    (tmp_path / REPORT).write_text("{")
    with pytest.raises(ModelLoadError, match="this is no JSON"):
        noted_template(tmp_path)
