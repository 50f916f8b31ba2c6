"""What the header of a file of weights says: the name, shape, type and place of each tensor. Reads no file.

Words for types are torch's: `float16`, not `F16` or `HalfStorage`. Knows no format and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

WIDTHS = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16, "float32": 4, "int32": 4, "uint32": 4,
    "complex32": 4, "qint32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1,
    "bool": 1, "qint8": 1, "quint8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
"""Bytes of one number of each type."""

MAX_TENSORS = 200_000
"""More than any model has in one file; a header that names more is refused."""

MAX_NAME = 1024
"""Characters of a tensor's name."""

MAX_DIMENSIONS = 16

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file. `shape`: rows first. `dtype`: as torch calls it. `nbytes`: what its numbers take.

    `start`: where they begin, in bytes from the beginning of the file. `strides`: in numbers, where they don't lie row
    after row; else empty. Two tensors are equal where their shapes and types are, wherever they lie.
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    start: int = field(default=-1, compare=False, repr=False)
    strides: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of one number."""
        return WIDTHS.get(self.dtype, 1)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The header of one file of weights. `size`: of the file, in bytes. `tensors`: those at its top, by name.

    `groups`: tensors one level deeper, as trainers write them, by the group's name ("module", "state_dict"). `values`:
    texts and numbers at the top, or a safetensors file's own notes. `foreign`: what the file names besides weights,
    and would have run or made if it were read without care; nothing of it was.
    """

    path: Path
    format: Literal["safetensors", "torch", "torch before 1.6"]
    size: int
    tensors: Mapping[str, TensorInfo]
    groups: Mapping[str, Mapping[str, TensorInfo]] = field(default_factory=dict)
    values: Mapping[str, Scalar] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()

    @property
    def weights(self) -> Mapping[str, TensorInfo]:
        """The tensors at the top or, where there are none, those of the group that has most."""
        return self.tensors or max(self.groups.values(), key=len, default={})
