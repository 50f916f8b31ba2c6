"""Tensors of a file that is made, out of parts of those in others: as they are, or packed. Some rows at a time.

Knows parts, types and packing; knows no names and writes no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from chatbridge import ModelLoadError, NewTensor, StoredTensor
from chatbridge_glm.parallel import Piece
from chatbridge_glm.quantization import Packed, quantize

SLICE = 32 << 20
"""Bytes that are read at a time."""


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor that is put together of pieces. `stored`: the tensor of each shard that they are pieces of."""

    stored: Sequence[StoredTensor]
    pieces: Sequence[Piece]

    @classmethod
    def whole(cls, tensor: StoredTensor) -> Part:
        """All of one tensor."""
        return cls((tensor,), (Piece(0, 0, tensor.rows),))

    @property
    def dtype(self) -> str:
        return self.stored[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.stored[0].shape
        if self.pieces[0].columns is not None:
            return (shape[0], sum(piece.columns[1] - piece.columns[0] for piece in self.pieces if piece.columns))
        return (sum(piece.last - piece.first for piece in self.pieces), *shape[1:]) if shape else ()

    def blocks(self) -> Iterator[np.ndarray[Any, Any]]:
        """It, as it is stored, in blocks of rows; bfloat16 as its 16 bits."""
        by_columns = self.pieces[0].columns is not None
        each = self.stored[0].nbytes // max(1, self.stored[0].rows) * (len(self.pieces) if by_columns else 1)
        step = max(1, SLICE // max(1, each))
        for piece in self.pieces[:1] if by_columns else self.pieces:
            for first in range(piece.first, piece.last, step):
                last = min(first + step, piece.last)
                if by_columns:
                    yield self._side_by_side(first, last)
                else:
                    yield self.stored[piece.shard].read(first, last)

    def _side_by_side(self, first: int, last: int) -> np.ndarray[Any, Any]:
        parts = []
        for piece in self.pieces:
            assert piece.columns is not None
            parts.append(self.stored[piece.shard].columns(first, last, *piece.columns))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def copied(name: str, part: Part) -> NewTensor:
    """As it is stored."""
    nbytes = int(np.prod(part.shape, dtype=np.int64)) * part.stored[0].info.width
    return NewTensor(name, part.shape, part.dtype, nbytes, lambda: (block.data for block in part.blocks()))


def halved(name: str, part: Part) -> NewTensor:
    """In half precision."""
    if part.dtype == "float16":
        return copied(name, part)

    def make() -> Iterator[memoryview]:
        for block in part.blocks():
            half = _as_torch(block, part.dtype).half()
            _refuse_infinite(half, name, part)
            yield _bytes(half)

    return NewTensor(name, part.shape, "float16", int(np.prod(part.shape, dtype=np.int64)) * 2, make)


def packed(name: str, part: Part, bits: int, *, exact: bool = False) -> list[NewTensor]:
    """A matrix in 8 or 4 bits, and behind it the scales of its rows. `exact`: see `quantize`.

    Raises ModelLoadError where it has numbers that half precision does not have, and for bits, where columns are odd.
    """
    rows, columns = part.shape
    if columns * bits % 8:
        raise ModelLoadError(
            f"{part.stored[0].path}: {name} would have {columns:,} columns, and 4 bits need an even number of them"
        )
    scales: list[Any] = []

    def blocks() -> Iterator[Packed]:
        scales.clear()
        for block in part.blocks():
            own = quantize(_as_torch(block, part.dtype), bits, exact=exact)
            _refuse_infinite(own.scale, name, part)
            scales.append(own.scale)
            yield own

    def weight() -> Iterator[memoryview]:
        return (_bytes(own.weight) for own in blocks())

    def scale() -> Iterator[memoryview]:
        if sum(map(len, scales)) < rows:  # the weights were written by a run that was killed
            for _ in blocks():
                pass
        yield _bytes(torch.cat(scales))
        scales.clear()

    return [
        NewTensor(name, (rows, columns * bits // 8), "int8", rows * columns * bits // 8, weight),
        NewTensor(f"{name}_scale", (rows,), "float16", 2 * rows, scale),
    ]


def _refuse_infinite(numbers: Any, name: str, part: Part) -> None:
    if not bool(numbers.isfinite().all()):
        raise ModelLoadError(
            f"{part.stored[0].path}: {name} holds what is no number, or greater than 65,504, which half precision does "
            "not have: the model is damaged, or was trained in bfloat16 and can't be had in this form"
        )


def _as_torch(array: np.ndarray[Any, Any], dtype: str) -> Any:
    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _bytes(tensor: Any) -> memoryview:
    raw: memoryview = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return raw
