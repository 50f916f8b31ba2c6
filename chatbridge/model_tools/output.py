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

_KEY = ".key"
"""In a folder that is not whole: what it is to become."""


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
    path: Path,
    container: Container,
    tensors: Sequence[NewTensor],
    key: str,
    progress: WorkProgress | None = None,
    last: Callable[[], None] | None = None,
) -> None:
    """Write the file, or go on with it. `key`: a text that is another one where the data would be.

    `progress` is told of bytes written, those of an earlier run among them. `last` is called before the file gets its
    name, and raises where it must not, as `Report.check_sources`. Raises ModelLoadError where the file can't be
    written, or another program writes it; then nothing is left.
    """
    progress = progress or Silent()
    names = [(tensor.name, tensor.shape, tensor.dtype, tensor.nbytes, tensor.strides) for tensor in tensors]
    whole_key = hashlib.sha256(json.dumps([key, type(container).__name__, names]).encode()).hexdigest()
    partial, journal = partial_name(path), _journal_name(path)
    _refuse_other_kind(partial, folder=False)
    try:
        with journal.open("a+b") as notes, _alone(notes, path, journal):
            at, checks = _journaled(notes, whole_key, partial)
            with partial.open("r+b" if checks else "wb") as file:
                file.truncate(at)
                file.seek(at)
                progress.advance(sum(tensor.nbytes for tensor in tensors[: len(checks)]))
                _write(file, notes, container, tensors, checks, progress)
                file.write(container.after(checks))
                file.flush()
                os.fsync(file.fileno())
            if last is not None:
                last()
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

    What a killed run with the same `key` has left is there already; what one with another key has left is deleted,
    but nothing that another program is at work on or that no such run has made. Where the work fails nothing is left;
    Ctrl-C leaves it to be gone on with. Raises ModelLoadError.
    """
    partial = partial_name(path)
    note = partial / _KEY
    digest = hashlib.sha256(key.encode()).hexdigest().encode()
    _refuse_other_kind(partial, folder=True)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        if not note.exists() and any(partial.iterdir()):
            raise Busy(f"{partial}: it is in the way, and no killed run has left it; move it, or name another output")
        with note.open("a+b") as file, _alone(file, path, note):
            file.seek(0)
            if file.read() != digest:  # locked, so that nobody is at work on what is deleted
                _clear(partial)
                file.truncate(0)
                file.write(digest)
                file.flush()
            yield partial
            if sys.platform != "win32":  # where nothing that holds an open file is renamed
                note.unlink()
                partial.replace(path)
        if sys.platform == "win32":
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
    try:
        with alone_with(path) as partial:  # not locked itself: on Windows nobody else could write behind the lock
            partial.write_bytes(b"")
            yield partial
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    except Busy:
        raise
    except BaseException:
        _delete(partial_name(path), _journal_name(path))
        raise


@contextmanager
def alone_with(path: Path) -> Iterator[Path]:
    """Keep other programs from making the same file; the temporary name is given, and whoever writes it renames it.

    For work that finds out by itself how far a killed run came. Raises ModelLoadError.
    """
    partial, journal = partial_name(path), _journal_name(path)
    _refuse_other_kind(partial, folder=False)
    try:
        with journal.open("a+b") as file, _alone(file, path, journal):
            yield partial
            if sys.platform != "win32":
                journal.unlink()
        journal.unlink(missing_ok=True)
    except Busy:
        raise
    except OSError as error:
        _delete(partial, journal)
        raise cant_write(path, error) from error
    except Exception:
        _delete(partial, journal)
        raise


def check_output(path: Path) -> None:
    """Raise ModelLoadError where an output can't be made there: before anything large is read."""
    if path.exists() or path.is_symlink():
        raise ModelLoadError(f"{path}: it is there already; name another output, or delete it")
    parent = path.parent
    if not parent.is_dir():
        raise ModelLoadError(f"{parent}: there is no such folder to put the output into; make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ModelLoadError(f"{parent}: nothing can be written into this folder; name an output elsewhere by -o")


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
def _alone(file: BinaryIO, path: Path, name: Path) -> Iterator[None]:
    """Hold the lock of the open file. `path`: what is made under it; `name`: of the file."""
    if not try_lock(file.fileno(), path):
        raise Busy(f"{path}: another program is making it now; wait for it, or name another output")
    if not name.exists() or not os.path.samestat(os.fstat(file.fileno()), name.stat()):
        raise Busy(f"{path}: another program has just made it")  # and what was opened bears another name now, or none
    yield


def _refuse_other_kind(partial: Path, *, folder: bool) -> None:
    if partial.is_symlink() or (partial.exists() and partial.is_dir() != folder):
        raise ModelLoadError(
            f"{partial}: a run that makes something else was killed here, or is at work; delete it if none is, or name "
            f"another output"
        )


def _clear(partial: Path) -> None:
    """Delete what is in a folder, but for its key."""
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _KEY:
            path.unlink()


def _journal_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


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
