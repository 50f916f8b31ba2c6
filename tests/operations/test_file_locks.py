"""A file's lock where there are none, and on Windows, whose part of the standard library is stood in for."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatbridge.operations.file_locks import _BYTE, try_lock


def windows(monkeypatch: pytest.MonkeyPatch, trouble: int = 0) -> list[tuple[int, int, int]]:
    """Locks as on Windows from now on, or the trouble with them; where each locked byte is, how many, and how."""
    locked: list[tuple[int, int, int]] = []

    def locking(descriptor: int, mode: int, count: int) -> None:
        locked.append((os.lseek(descriptor, 0, os.SEEK_CUR), count, mode))
        if trouble:
            raise OSError(trouble, "no lock")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    return locked


def test_on_windows_a_byte_far_behind_the_text_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = windows(monkeypatch)
    with (tmp_path / "lock").open("w+b") as file:
        file.write(b"who")
        file.flush()
        assert try_lock(file.fileno(), "lock")
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0, "what is written or read next begins the file"
    assert locked == [(_BYTE, 1, 2)]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES, errno.EDEADLK])
def test_what_somebody_else_has_locked_is_not_ours(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows(monkeypatch, number)
    with (tmp_path / "lock").open("w+b") as file:
        assert not try_lock(file.fileno(), "lock")
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_where_a_drive_has_no_locks_it_is_ours_and_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    windows(monkeypatch, number)
    with (tmp_path / "lock").open("w+b") as file:
        assert try_lock(file.fileno(), "the file")
    assert caplog.messages == ["the file: this drive has no locks (no lock); see to it that one program alone uses it"]


def test_other_trouble_is_told_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows(monkeypatch, errno.EIO)
    with (tmp_path / "lock").open("w+b") as file, pytest.raises(OSError, match="no lock"):
        try_lock(file.fileno(), "lock")


@pytest.mark.skipif(sys.platform == "win32", reason="the locks of POSIX")
def test_two_holders_keep_each_other_out(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w+b") as one, (tmp_path / "lock").open("r+b") as other:
        assert [try_lock(file.fileno(), "lock") for file in (one, other)] == [True, False]
        one.close()
        assert try_lock(other.fileno(), "lock")
