"""Where what can be made again is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from chatbridge import cache_folder
from chatbridge.operations.folders import models_folder


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these have other variables")
def test_the_users_own_folder_of_caches_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder({}) == tmp_path / ".cache" / "chatbridge"
    assert cache_folder({"XDG_CACHE_HOME": "/caches"}) == Path("/caches/chatbridge")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these have other variables")
def test_models_are_data_of_the_users_unless_they_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert models_folder({}) == tmp_path / ".local" / "share" / "chatbridge" / "models"
    assert models_folder({"XDG_DATA_HOME": "/data"}) == Path("/data/chatbridge/models")
    assert models_folder({"XDG_DATA_HOME": "/data", "CHATBRIDGE_MODELS": "/big"}) == Path("/big")


def test_who_has_no_home_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder({}) is None
    assert models_folder({}) is None
    assert models_folder({"CHATBRIDGE_MODELS": "/models"}) == Path("/models").absolute()
