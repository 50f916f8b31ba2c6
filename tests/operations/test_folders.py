"""Where what can be made again is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from chatbridge import cache_folder


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these have other variables")
def test_the_users_own_folder_of_caches_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder({}) == tmp_path / ".cache" / "chatbridge"
    assert cache_folder({"XDG_CACHE_HOME": "/caches"}) == Path("/caches/chatbridge")


def test_who_has_no_home_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder({}) is None
