"""Reads tensors of torch and safetensors files as NumPy arrays: whole, or some of their rows at a time.

What is in memory is what was asked for and no more: files are read, not mapped, since mapped pages count as memory of
the program. bfloat16, which NumPy does not have, comes as its 16 bits. Knows headers by `tensors.py`, and no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.reading import read_tensors
from chatbridge.model_files.tensors import TensorFile, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Array = NDArray[np.generic]

SLICE = 8 << 20
"""Bytes that are read at a time where rows are read one slice after another."""


class StoredTensor:
    """A tensor in a file. `shape`, `dtype`: as `TensorInfo` has them. Good as long as its `Weights` are open."""

    def __init__(self, path: Path, file: BinaryIO, name: str, info: TensorInfo) -> None:
        self.path, self.name, self.info = path, name, info
        self.shape, self.dtype, self.nbytes = info.shape, info.dtype, info.nbytes
        self._file = file

    @property
    def rows(self) -> int:
        """How long its first axis is; 1 for a single number."""
        return self.shape[0] if self.shape else 1

    def read(self, first: int = 0, last: int | None = None) -> Array:
        """The rows from `first` to before `last`, as they are stored: bfloat16 as uint16. Raises ModelLoadError.

        Shape: `(last - first, …)`; that of the tensor itself where it has no axis.
        """
        last = self.rows if last is None else last
        stored = stored_type(self.dtype)
        if stored is None:
            raise ModelLoadError(f"{self.path}: {self.name:.200} has numbers of {self.dtype}, which is not read here")
        if self.info.strides:
            return self._spread(stored)[first:last]
        each = prod(self.shape[1:]) * stored.itemsize
        raw = self._bytes(self.info.start + first * each, (last - first) * each)
        found = np.frombuffer(raw, stored)
        return found.reshape(last - first, *self.shape[1:]) if self.shape else found.reshape(())

    def columns(self, first: int, last: int, start: int, end: int) -> Array:
        """Of the rows from `first` to before `last`, the columns from `start` to before `end`: `(rows, end - start)`.

        Of a matrix that lies row after row nothing else is read from the file. Raises ModelLoadError.
        """
        stored = stored_type(self.dtype)
        if stored is None or len(self.shape) != 2 or self.info.strides or (start, end) == (0, self.shape[1]):
            return np.ascontiguousarray(self.read(first, last)[:, start:end])
        row, size = self.shape[1] * stored.itemsize, (end - start) * stored.itemsize
        begin = self.info.start + start * stored.itemsize
        raw = bytearray().join(self._bytes(begin + number * row, size) for number in range(first, last))
        return np.frombuffer(raw, stored).reshape(last - first, end - start)

    def floats(self, first: int = 0, last: int | None = None) -> Floats:
        """The same in float32. Raises ModelLoadError for numbers that are no floats."""
        return as_float32(self.read(first, last), self.dtype, f"{self.path}: {self.name:.200}")

    def slices(self, size: int = SLICE) -> Iterator[tuple[int, int]]:
        """From which row to which the tensor is read, so that a slice has about `size` bytes as it is stored."""
        each = max(1, self.nbytes // max(1, self.rows))
        step = max(1, size // each) if not self.info.strides else max(1, self.rows)
        for first in range(0, self.rows, step):
            yield first, min(first + step, self.rows)

    def _spread(self, stored: np.dtype[np.generic]) -> Array:
        """The whole of a tensor whose numbers don't lie row after row, as a transposed one's."""
        reach = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.info.strides, strict=True))
        flat = np.frombuffer(self._bytes(self.info.start, reach * stored.itemsize), stored)
        steps = [stride * stored.itemsize for stride in self.info.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, self.shape, steps))

    def _bytes(self, start: int, count: int) -> bytearray:
        raw = bytearray(count)
        view, done = memoryview(raw), 0
        try:
            self._file.seek(start)
            while done < count:
                got = self._file.readinto(view[done:])  # type: ignore[attr-defined]
                if not got:
                    break
                done += got
        except OSError as error:
            raise ModelLoadError(f"{self.path}: the file can't be read: {error.strerror or error}") from error
        if done < count:
            raise ModelLoadError(f"{self.path}: the file has become shorter while it was read; download it again")
        return raw


class Weights(Mapping[str, StoredTensor]):
    """The tensors of several files by their names; to be used in a `with`, which closes the files.

    `headers`: of the files, as `read_tensors` gives them. Raises ModelLoadError where two files have the same name,
    with other shapes or types; of equal ones the first is taken.
    """

    def __init__(self, headers: Iterable[TensorFile]) -> None:
        self._files = ExitStack()
        self._tensors: dict[str, StoredTensor] = {}
        try:
            for header in headers:
                self._add(header)
        except BaseException:
            self._files.close()
            raise

    @classmethod
    def of_files(cls, paths: Iterable[Path]) -> Self:
        """Those of torch or safetensors files. Raises ModelLoadError."""
        return cls([read_tensors(path) for path in paths])

    def _add(self, header: TensorFile) -> None:
        try:
            file: BinaryIO = self._files.enter_context(header.path.open("rb", buffering=0))
        except OSError as error:
            raise ModelLoadError(f"{header.path}: the file can't be read: {error.strerror or error}") from error
        for name, info in header.weights.items():
            if info.nbytes > header.size:  # a number may stand for many, as in what torch has expanded
                raise ModelLoadError(f"{header.path}: {name:.200} has {info.nbytes:,} bytes, more than the whole file")
            if (known := self._tensors.get(name)) is None:
                self._tensors[name] = StoredTensor(header.path, file, name, info)
            elif known.info != info:
                raise ModelLoadError(f"{header.path}: {name:.200} is in {known.path.name}, too, with another shape")

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._files.close()


def stored_type(dtype: str) -> np.dtype[np.generic] | None:
    """NumPy's type for numbers as they lie in a file, little end first; None for those that it does not have."""
    if dtype == "bfloat16":
        return np.dtype("<u2")
    try:
        return np.dtype(dtype).newbyteorder("<")
    except TypeError:
        return None


def as_float32(array: Array, dtype: str, what: str = "this tensor") -> Floats:
    """The numbers as float32; `dtype` as `TensorInfo` has it. Raises ModelLoadError for what is no float."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype not in ("float16", "float32", "float64"):
        raise ModelLoadError(f"{what} has numbers of {dtype}: quantised or no weight; take the model in float16")
    return array.astype(np.float32, copy=False)


def from_float32(array: Floats, dtype: str) -> Array:
    """The numbers as they are stored in `dtype`: float32, float16, or bfloat16 (as uint16), to the nearest, ties to
    even. What is too large becomes infinite."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array).view(np.uint32)
        rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)
    with np.errstate(over="ignore"):
        return array.astype(np.dtype(dtype).newbyteorder("<"), copy=False)
