"""Writes files of weights that are whole or not there: under a temporary name, one tensor at a time, and resumed.

Beside `NAME.partial` lies a journal, `NAME.journal`: one line for each tensor that is written. A run that was killed is
gone on with after the last of them; one that fails leaves nothing. Knows containers by `Container`, and no model.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from chatbridge.errors import ModelLoadError
from chatbridge.model_tools.progress import Silent, WorkProgress
from chatbridge.operations.file_locks import try_lock

Bytes = bytes | bytearray | memoryview
SYNC = 256 << 20
"""After so many bytes the disk is waited for, so that the journal never promises what a power cut has taken."""


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written. `shape`: rows first. `dtype`: as torch calls it, or llama.cpp's type ("q8_0").

    `make`: its bytes, in order and in pieces, of which only one is in memory at a time; `nbytes` in all. `strides`: in
    numbers, where they don't lie row after row, as those of a matrix turned over; torch's files alone can have them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    make: Callable[[], Iterable[Bytes]]
    strides: tuple[int, ...] = ()


class Container(Protocol):
    """A format of files of weights, for one row of tensors."""

    def before(self, number: int) -> bytes:
        """What stands between the data of the tensor before and this one's: the file's header, a padding."""
        ...

    def after(self, checks: Sequence[int]) -> bytes:
        """What stands at the end. `checks`: the CRC-32 of each tensor's data."""
        ...

    def patch(self, number: int, check: int) -> tuple[int, bytes] | None:
        """What is put in afterwards, and at which byte, once a tensor's data are known."""
        ...


def write_tensors(
    path: Path, container: Container, tensors: Sequence[NewTensor], key: str, progress: WorkProgress | None = None
) -> None:
    """Write the file, or go on with it. `key`: a text that is another one where the data would be.

    `progress` is told of bytes written, those of an earlier run among them. Raises ModelLoadError where the file can't
    be written, or another program writes it; then nothing is left.
    """
    progress = progress or Silent()
    names = [(tensor.name, tensor.shape, tensor.dtype, tensor.nbytes, tensor.strides) for tensor in tensors]
    whole_key = hashlib.sha256(json.dumps([key, type(container).__name__, names]).encode()).hexdigest()
    partial, journal = partial_name(path), path.with_name(f"{path.name}.journal")
    try:
        with journal.open("a+b") as notes, _alone(notes, path):
            at, checks = _journaled(notes, whole_key, partial)
            with partial.open("r+b" if checks else "wb") as file:
                file.truncate(at)
                file.seek(at)
                progress.advance(sum(tensor.nbytes for tensor in tensors[: len(checks)]))
                _write(file, notes, container, tensors, checks, progress)
                file.write(container.after(checks))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            if sys.platform != "win32":
                journal.unlink()  # while it is locked, so that nobody takes up a work that is done
        journal.unlink(missing_ok=True)
    except OSError as error:
        _delete(partial, journal)
        raise cant_write(path, error) from error
    except Busy:
        raise
    except Exception:
        _delete(partial, journal)
        raise


def partial_name(path: Path) -> Path:
    """What a file or folder is called until it is whole."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def output_folder(path: Path, key: str) -> Iterator[Path]:
    """A folder that is whole or not there: what is written goes into the one given, which gets the name at the end.

    What a killed run with the same `key` has left is there already; with another key it is deleted. Where the work
    fails nothing is left; Ctrl-C leaves it to be gone on with. Raises ModelLoadError.
    """
    partial = partial_name(path)
    note = partial / ".key"
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        if partial.exists() and (not note.exists() or note.read_text(encoding="ascii", errors="replace") != digest):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        with note.open("a+b") as file, _alone(file, path):
            if not note.stat().st_size:
                file.write(digest.encode())
                file.flush()
            yield partial
        note.unlink()
        partial.replace(path)
    except Busy:
        raise
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise cant_write(path, error) from error
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """A file that is whole or not there, for what writes it in one go: under the name given, and renamed at the end.

    What a killed run has left is written anew. Where the work fails or is stopped, nothing is left. Raises
    ModelLoadError.
    """
    partial = partial_name(path)
    try:
        with partial.open("a+b") as file, _alone(file, path):
            if not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                raise Busy(f"{path}: another program has just made it")  # and what was opened bears its name now
            file.truncate(0)
            yield partial
            os.fsync(file.fileno())
            if sys.platform != "win32":
                partial.replace(path)
        if sys.platform == "win32":  # where nothing that is open is renamed
            partial.replace(path)
    except Busy:
        raise
    except OSError as error:
        _delete(partial)
        raise cant_write(path, error) from error
    except BaseException:
        _delete(partial)
        raise


def check_space(path: Path, nbytes: int) -> None:
    """Raise ModelLoadError where a file of so many bytes has no room on the disk of `path`."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    with suppress(OSError):
        written = sum(file.stat().st_size for file in _files_of(partial_name(path)))
        if (free := shutil.disk_usage(there).free) < nbytes - written:
            raise ModelLoadError(
                f"{path}: it takes {nbytes:,} bytes, and {free:,} are free on the disk of {there}; free some, or name "
                f"another disk by -o"
            )


def cant_write(path: Path, error: OSError) -> ModelLoadError:
    """An error of the system, in words."""
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas
    why = "the disk is full; free some space and try again" if full else error.strerror or str(error)
    return ModelLoadError(f"{path}: it can't be written: {why}")


class Busy(ModelLoadError):
    """Another program makes the same file now."""


def _files_of(partial: Path) -> Iterator[Path]:
    return partial.rglob("*") if partial.is_dir() else iter([partial] if partial.exists() else [])


@contextmanager
def _alone(file: BinaryIO, path: Path) -> Iterator[None]:
    if not try_lock(file.fileno(), path):
        raise Busy(f"{path}: another program is making it now; wait for it, or name another output")
    yield


def _journaled(notes: BinaryIO, key: str, partial: Path) -> tuple[int, list[int]]:
    """Where the data that the journal knows of end, and the checks of its tensors. Begins a journal of another work."""
    notes.seek(0)
    lines = []
    for line in notes:
        with suppress(ValueError):  # the last line of a killed run may be cut short
            if line.endswith(b"\n"):
                lines.append(json.loads(line))
    there = partial.stat().st_size if partial.exists() else 0
    if not lines or lines[0] != {"key": key} or not all(isinstance(line, list) for line in lines[1:]):
        notes.truncate(0)
        _note(notes, {"key": key})
        return 0, []
    done = [line for line in lines[1:] if line[0] <= there]
    notes.truncate(0)
    for line in ({"key": key}, *done):
        _note(notes, line)
    return (done[-1][0] if done else 0), [check for _, check in done]


def _write(
    file: BinaryIO, notes: BinaryIO, container: Container, tensors: Sequence[NewTensor], checks: list[int],
    progress: WorkProgress,
) -> None:  # fmt: skip
    unsynced = 0
    waiting: list[list[int]] = []
    for number, tensor in list(enumerate(tensors))[len(checks) :]:
        file.write(container.before(number))
        check, written = 0, 0
        for piece in tensor.make():
            view = memoryview(piece).cast("B")
            file.write(view)
            check, written = zlib.crc32(view, check), written + view.nbytes
            progress.advance(view.nbytes)
        if written != tensor.nbytes:
            raise AssertionError(f"{tensor.name} was to have {tensor.nbytes:,} bytes, and has {written:,}")
        if (patch := container.patch(number, check)) is not None:
            end = file.tell()
            file.seek(patch[0])
            file.write(patch[1])
            file.seek(end)
        checks.append(check)
        waiting.append([file.tell(), check])
        unsynced += written
        file.flush()
        if unsynced >= SYNC or number == len(tensors) - 1:
            os.fsync(file.fileno())
            for line in waiting:
                _note(notes, line)
            waiting, unsynced = [], 0


def _note(notes: BinaryIO, line: object) -> None:
    notes.seek(0, os.SEEK_END)
    notes.write(json.dumps(line).encode() + b"\n")
    notes.flush()


def _delete(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
