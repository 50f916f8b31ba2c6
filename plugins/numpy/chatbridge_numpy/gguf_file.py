"""Reads a GGUF file: its metadata, and its tensors as float32. Knows the container, not what a model means by it.

The format: github.com/ggml-org/ggml, docs/gguf.md. The header is read here rather than by `gguf.GGUFReader`, which
trusts every length in it: a damaged file makes that one loop for hours, and a large vocabulary takes it seconds.
The `gguf` package dequantises.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import ModelLoadError

Floats = NDArray[np.float32]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4

_OTHER_FORMATS = {
    b"lmgg": "an old GGML file; make a GGUF file of it with llama.cpp's convert_llama_ggml_to_gguf.py",
    b"fmgg": "an old GGMF file; make a GGUF file of it with llama.cpp's convert_llama_ggml_to_gguf.py",
    b"tjgg": "an old GGJT file; make a GGUF file of it with llama.cpp's convert_llama_ggml_to_gguf.py",
    b"algg": "an old LoRA adapter; make a GGUF file of it anew with llama.cpp's convert_lora_to_gguf.py",
    b"PK\3\4": "a PyTorch checkpoint; convert its model to GGUF, or load the folder with backend: transformers",
    b"vers": "a Git LFS pointer, not the file itself; run `git lfs pull`",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies. `shape`: in NumPy's order, rows first. `kind`: the name of its type, as "Q8_0"."""

    name: str
    shape: tuple[int, ...]
    kind: str
    data: NDArray[np.uint8] = field(repr=False)


class GgufFile:
    """An open GGUF file, mapped into memory.

    `metadata`: values by key; arrays of numbers are NumPy arrays, arrays of strings are lists of bytes.
    `tensors`: by name. Raises ModelLoadError where the file is missing, damaged or something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = _mapped(path)
        header = _Header(path, self._bytes)
        self.metadata, infos = header.read()
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise _damaged(path, f"general.alignment is {alignment!r}")
        start = -(-header.at // alignment) * alignment
        self.tensors = {name: self._tensor(name, shape, kind, start + at) for name, shape, kind, at in infos}

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self._bytes.size)

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

        try:
            with np.errstate(all="ignore"):  # what is no number is looked for below
                values = dequantize(tensor.data.reshape(*shape[:-1], -1), GGMLQuantizationType[tensor.kind])
        except NotImplementedError:
            raise ModelLoadError(
                f"{self.path}: the tensor {name} is of type {tensor.kind}, which the numpy backend can't read; "
                f"use backend: llama_cpp, or a file in q8_0, q4_0, f16 or f32"
            ) from None
        # A float32 tensor comes as a view into the file, which may be replaced under a running model: "W" copies it.
        floats: Floats = np.require(values.reshape(shape), np.float32, ("C", "W"))
        if not np.isfinite(floats).all():
            raise _damaged(self.path, f"the tensor {name} holds values that are no numbers")
        return floats

    def fingerprint(self) -> str:
        """A hash of every byte of the file: a second for each gigabyte, which is little beside dequantising it."""
        return hashlib.blake2b(self._bytes.data, digest_size=16).hexdigest()

    def _tensor(self, name: str, shape: tuple[int, ...], number: int, at: int) -> Tensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise ModelLoadError(
                f"{self.path}: the tensor {name} is of type number {number}, which this version of the gguf "
                f"package doesn't know; use backend: llama_cpp, or a file in q8_0, q4_0, f16 or f32"
            ) from None
        block, size = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise _damaged(self.path, f"{name} has rows of {shape[-1]}, and {kind.name} packs {block} together")
        end = at + prod(shape) // block * size
        if end > self.size:
            raise ModelLoadError(
                f"{self.path}: the file is cut short: {name} should end at byte {end:,}, and the file has "
                f"{self.size:,}; download it again"
            )
        return Tensor(name, shape, kind.name, self._bytes[at:end])


class _Header:
    """The part of a file before the tensors' data, read from front to back; `at` is the next byte."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.at = 0
        self._path = path
        self._data = data.data

    def read(self) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
        """All metadata, and name, shape, type and offset of each tensor."""
        self._check_magic()
        tensors, pairs = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(self._count(pairs, 13)):
            key = self._text()
            metadata[key] = self._value(self._number("I"))
        return metadata, [self._tensor() for _ in range(self._count(tensors, 24))]

    def _check_magic(self) -> None:
        magic = bytes(self._data[:4])
        if magic != b"GGUF":
            what = _OTHER_FORMATS.get(magic, "no GGUF file; the numpy backend reads nothing else")
            raise ModelLoadError(f"{self._path}: this is {what}")
        self.at = 4
        version = self._number("I")
        if version not in (2, 3):
            why = "big-endian" if version & 0xFFFF == 0 else f"of GGUF version {version}"
            raise ModelLoadError(f"{self._path}: this file is {why}; convert the model again, to GGUF version 3")

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        dimensions = self._number("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise _damaged(self._path, f"{name} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        if prod(shape) == 0:
            raise _damaged(self._path, f"{name} is empty")
        return name, shape, self._number("I"), self._number("Q")

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        raise _damaged(self._path, f"a value of type {kind} before byte {self.at:,}")

    def _array(self) -> NDArray[Any] | list[Any]:
        kind, length = self._number("I"), self._number("Q")
        if kind in _SCALARS:
            item = np.dtype(_SCALARS[kind]).newbyteorder("<")
            raw = self._take(self._count(length, item.itemsize) * item.itemsize)
            return np.frombuffer(raw, dtype=item)
        if kind == _STRING:
            return [bytes(self._take(self._number("Q"))) for _ in range(self._count(length, 8))]
        if kind == _ARRAY:
            raise _damaged(self._path, "an array of arrays, which no model uses")
        raise _damaged(self._path, f"an array of type {kind} before byte {self.at:,}")

    def _text(self) -> str:
        raw = bytes(self._take(self._number("Q")))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise _damaged(self._path, f"text before byte {self.at:,} is not UTF-8") from None

    def _number(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _count(self, count: int, each: int) -> int:
        """`count`, if so many things of at least `each` bytes can follow at all."""
        if count * each > len(self._data) - self.at:
            raise _damaged(self._path, f"{count:,} entries should follow byte {self.at:,}, and can't fit")
        return count

    def _take(self, size: int) -> memoryview:
        if size > len(self._data) - self.at:
            raise _damaged(self._path, f"it ends inside the header, at byte {len(self._data):,}")
        taken = self._data[self.at : self.at + size]
        self.at += size
        return taken


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        if path.stat().st_size < 24:
            raise ModelLoadError(f"{path}: this is no GGUF file; it has {path.stat().st_size} bytes")
        return np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: there is no such file; give the path of a GGUF file") from None
    except IsADirectoryError:
        raise _folder(path) from None
    except OSError as error:
        if path.is_dir():  # Windows says PermissionError
            raise _folder(path) from None
        raise ModelLoadError(f"{path}: the file can't be read: {error.strerror or error}") from None


def _folder(path: Path) -> ModelLoadError:
    return ModelLoadError(
        f"{path}: this is a folder; give the GGUF file in it, or use backend: transformers for a whole folder"
    )


def _damaged(path: Path, what: str) -> ModelLoadError:
    return ModelLoadError(f"{path}: the file is damaged: {what}; download or convert it again")
