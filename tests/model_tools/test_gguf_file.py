"""The header of a GGUF file is made among temporary files, and says what it can't be made of."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.gguf_file import GgufFile, as_text


def test_a_header_that_has_no_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ModelLoadError, match=r"temporary files: .*; make room there, or name another folder by TMPDIR"):
        GgufFile("llama", lambda writer: None, [])


def test_a_name_that_is_no_text_has_marks_for_what_is_none() -> None:
    assert as_text("模 \udcff\ud800") == "模 ??"
