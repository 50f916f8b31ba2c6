"""Weights seen in another way, read a few rows at a time: parts joined, heads put in another order, a part cut out.

Each view reads what it is of only when it is asked, so a chain of them needs no more memory than some rows. Knows
arrays; knows no file and no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from chatbridge.model_files.arrays import SLICE, as_float32
from chatbridge.model_files.tensors import WIDTHS
from chatbridge.model_tools.output import NewTensor

if TYPE_CHECKING:
    from chatbridge.model_files.arrays import Array, Floats


class Matrix(Protocol):
    """A tensor whose rows can be read. `shape`: rows first; `dtype`: as torch calls it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...

    def read(self, first: int, last: int) -> Array:
        """The rows from `first` to before `last`, as they are stored: `(last - first, …)`. Raises ModelLoadError."""
        ...


@runtime_checkable
class WithNarrow(Protocol):
    """A matrix to which products of narrow ones are added: vectors go through it without its being made."""

    def parted(self) -> tuple[Matrix, list[tuple[Floats, Floats]]]:
        """The matrix by itself, [out, in], and pairs of [rank, in] and [out, rank]. Raises ModelLoadError."""
        ...


Matrices = Mapping[str, Matrix]


def nbytes(matrix: Matrix) -> int:
    """What its numbers take as they are stored."""
    return prod(matrix.shape) * WIDTHS[matrix.dtype]


def spans(matrix: Matrix, size: int = SLICE, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """From which row to which it is read, so that a slice has about `size` bytes; a `multiple` of rows each."""
    rows = matrix.shape[0] if matrix.shape else 1
    step = max(multiple, size * rows // max(1, nbytes(matrix)) // multiple * multiple)
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


@runtime_checkable
class WithColumns(Protocol):
    """A matrix whose columns can be read without the others, as one that lies in a file."""

    def columns(self, first: int, last: int, start: int, end: int) -> Array:
        """Of the rows from `first` to before `last`, the columns from `start` to before `end`."""
        ...


def columns(matrix: Matrix, first: int, last: int, start: int, end: int) -> Array:
    """Some columns of some rows, and nothing else read where that can be. Raises ModelLoadError."""
    if isinstance(matrix, WithColumns):
        return matrix.columns(first, last, start, end)
    return matrix.read(first, last)[:, start:end]


def floats(matrix: Matrix, first: int, last: int) -> Floats:
    """Rows in float32. Raises ModelLoadError for numbers that are no floats."""
    return as_float32(matrix.read(first, last), matrix.dtype)


def to_write(name: str, matrix: Matrix) -> NewTensor:
    """The whole of it, to be written slice by slice."""

    def make() -> Iterator[bytes]:
        for first, last in spans(matrix):
            yield matrix.read(first, last).tobytes()

    return NewTensor(name, matrix.shape, matrix.dtype, nbytes(matrix), make)


class Joined:
    """Tensor-parallel parts as one: by rows (`axis` 0), where parts may differ, or by columns (1)."""

    def __init__(self, parts: Sequence[Matrix], axis: int) -> None:
        self._parts, self._axis, self.dtype = parts, axis, parts[0].dtype
        first = parts[0].shape
        total = sum(part.shape[axis] for part in parts)
        self.shape = (total, *first[1:]) if axis == 0 else (first[0], total)

    def read(self, first: int, last: int) -> Array:
        """Raises ModelLoadError."""
        if self._axis == 1:
            return np.concatenate([part.read(first, last) for part in self._parts], axis=1)
        found, at = [], 0
        for part in self._parts:
            begin, end = max(first - at, 0), min(last - at, part.shape[0])
            if begin < end:
                found.append(part.read(begin, end))
            at += part.shape[0]
        return found[0] if len(found) == 1 else np.concatenate(found)


class Turned:
    """Rows of queries or keys in the order of the other form: Meta turns neighbours, Hugging Face halves of a head.

    `heads`: how many there are in the rows; `to_halves`: from Meta's order to Hugging Face's, else back.
    """

    def __init__(self, matrix: Matrix, heads: int, *, to_halves: bool) -> None:
        self._matrix, self.shape, self.dtype = matrix, matrix.shape, matrix.dtype
        self._size, self._to_halves = matrix.shape[0] // heads, to_halves

    def read(self, first: int, last: int) -> Array:
        """Raises ModelLoadError."""
        size = self._size
        begin = first // size * size
        rows = self._matrix.read(begin, -(-last // size) * size)
        pairs = (-1, size // 2, 2) if self._to_halves else (-1, 2, size // 2)
        turned = rows.reshape(*pairs, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
        return turned[first - begin : last - begin]


class Cut:
    """Some of the rows (`axis` 0) or columns (1) of another: from `start` to before `end`."""

    def __init__(self, matrix: Matrix, axis: int, start: int, end: int) -> None:
        self._matrix, self._axis, self._start, self._end, self.dtype = matrix, axis, start, end, matrix.dtype
        self.shape = (end - start, *matrix.shape[1:]) if axis == 0 else (matrix.shape[0], end - start)

    def read(self, first: int, last: int) -> Array:
        """Raises ModelLoadError."""
        if self._axis == 0:
            return self._matrix.read(self._start + first, self._start + last)
        return columns(self._matrix, first, last, self._start, self._end)
