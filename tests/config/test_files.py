"""Files that somebody named are read whole or not at all, and never for ever."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from chatbridge.config.files import read_file

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="a pipe has no name there")


@contextmanager
def pipe(data: bytes) -> Iterator[Path]:
    """The name of a pipe into which somebody writes this, or who holds it where there is nothing to write."""
    reading, writing = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as file:
            file.write(data)

    with ThreadPoolExecutor(1) as beside:
        if data:
            beside.submit(write)
        try:
            yield Path(f"/dev/fd/{reading}")
        finally:
            os.close(reading)
            if not data:
                os.close(writing)


def test_a_file_may_have_so_many_bytes_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"x" * 100)
    assert read_file(file, most=100) == b"x" * 100
    with pytest.raises(OSError, match="has more than") as caught:
        read_file(file, most=99)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(file))
    file.write_bytes(b"")
    assert read_file(file) == b""


@on_posix
def test_a_pipe_is_read_to_its_end_however_much_comes_at_a_time() -> None:
    text = bytes(range(256)) * 2000
    with pipe(text) as path:
        assert read_file(path, most=len(text), patience=60) == text


@on_posix
def test_no_more_is_read_of_a_pipe_than_fits() -> None:
    with pipe(b"x" * (1 << 20)) as path, pytest.raises(OSError, match="has more than 0 MiB") as caught:
        read_file(path, most=100_000, patience=60)
    assert caught.value.errno == errno.EFBIG


@on_posix
def test_nobody_waits_for_ever_for_a_pipe_that_nobody_writes_to() -> None:
    with pipe(b"") as path, pytest.raises(OSError, match="nobody writes to this pipe") as caught:
        read_file(path, patience=0.01)
    assert caught.value.errno == errno.ETIMEDOUT
