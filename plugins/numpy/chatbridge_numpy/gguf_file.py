"""Reads a GGUF file: its header, as the core reads it, and its tensors as float32. Knows no model.

The `gguf` package dequantises.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chatbridge import GgufHeader, ModelLoadError, damaged_gguf

Floats = NDArray[np.float32]


class GgufFile(GgufHeader):
    """An open GGUF file, mapped into memory. Raises ModelLoadError for types of tensors that can't be read, too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, reader="the numpy backend")
        for tensor in self.tensors.values():
            if not tensor.nbytes:
                raise ModelLoadError(
                    f"{path}: the tensor {tensor.name} is of type number {tensor.kind.removeprefix('type ')}, which "
                    f"this version of the gguf package doesn't know; use backend: llama_cpp, or a file in q8_0, q4_0, "
                    f"f16 or f32"
                )
        self._bytes: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        if self._bytes.size != self.size:
            raise ModelLoadError(f"{path}: the file changed while it was being read; load it again")

    def floats(self, name: str, shape: tuple[int, ...]) -> Floats:
        """A tensor as a float32 array of `shape`, the caller's own.

        Raises ModelLoadError where it is missing, of another shape or not made of numbers.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ModelLoadError(f"{self.path}: the tensor {name} is missing; the file is incomplete")
        if tensor.shape != shape:
            raise ModelLoadError(
                f"{self.path}: the tensor {name} has the shape {list(tensor.shape)}, where the metadata say "
                f"{list(shape)}; the file was converted wrongly"
            )
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        data = self._bytes[tensor.start : tensor.start + tensor.nbytes]
        try:
            with np.errstate(all="ignore"):  # what is no number is looked for below
                values = dequantize(data.reshape(*shape[:-1], -1), GGMLQuantizationType[tensor.kind])
        except NotImplementedError:
            raise ModelLoadError(
                f"{self.path}: the tensor {name} is of type {tensor.kind}, which the numpy backend can't read; "
                f"use backend: llama_cpp, or a file in q8_0, q4_0, f16 or f32"
            ) from None
        # A float32 tensor comes as a view into the file, which may be replaced under a running model: "W" copies it.
        floats: Floats = np.require(values.reshape(shape), np.float32, ("C", "W"))
        if not np.isfinite(floats).all():
            raise damaged_gguf(self.path, f"the tensor {name} holds values that are no numbers")
        return floats

    def fingerprint(self) -> str:
        """A hash of every byte of the file: a second for each gigabyte, which is little beside dequantising it."""
        return hashlib.blake2b(self._bytes.data, digest_size=16).hexdigest()
