"""Reads the header of a GGUF file, and trusts nothing in it. Knows the container; reads no weights and no meaning.

The format: github.com/ggml-org/ggml, docs/gguf.md. The header is read here rather than by `gguf.GGUFReader`, which
trusts every length in it: a damaged file makes that one loop for hours, and a large vocabulary takes it seconds.
Whatever would make native code stumble over a damaged file is found here first, since that would end the process.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.tensors import MAX_NAME

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_SAMPLE = 4096
"""Bytes of each tensor that go into a file's fingerprint."""

_OTHER_FORMATS = {
    b"lmgg": "an old GGML file; make a GGUF file of it by `chatbridge model convert`",
    b"fmgg": "an old GGMF file; make a GGUF file of it by `chatbridge model convert`",
    b"tjgg": "an old GGJT file; make a GGUF file of it by `chatbridge model convert`",
    b"algg": "an old LoRA adapter; make a GGUF file anew of its PEFT folder by `chatbridge model convert`",
    b"PK\3\4": "a PyTorch checkpoint; convert its folder by `chatbridge model convert`, or load the folder "
    "with backend: transformers",
    b"vers": "a Git LFS pointer, not the file itself; run `git lfs pull`",
}


@dataclass(frozen=True, slots=True)
class GgufStrings:
    """An array of strings: how many, and the bytes that they take in the file, lengths included."""

    count: int
    raw: bytes

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[bytes]:
        at = 0
        while at < len(self.raw):
            (size,) = struct.unpack_from("<Q", self.raw, at)
            yield self.raw[at + 8 : at + 8 + size]
            at += 8 + size


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies. `shape`: in NumPy's order, rows first. `kind`: its type's name, as "Q8_0".

    `start`: in bytes from the beginning of the file; `nbytes` is 0 for a type that the gguf package doesn't know.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    nbytes: int

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


class GgufHeader:
    """The header of a GGUF file. `reader`: who reads nothing but such files, as the error for another one says it.

    `metadata`: values by key; arrays of numbers are NumPy arrays, arrays of strings are `GgufStrings`. `tensors`: by
    name. `size`: bytes of the file. Raises ModelLoadError where it is missing, damaged or something else.
    """

    def __init__(self, path: Path, *, reader: str) -> None:
        self.path = path
        with _opened(path) as data:
            self.size = len(data)
            header = _Header(path, memoryview(data), reader)
            try:
                self.metadata, infos = header.read()
                alignment = self.metadata.get("general.alignment", 32)
                if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
                    raise damaged_gguf(path, f"general.alignment is {alignment!r}")
                start = -(-header.at // alignment) * alignment
                self.tensors = {info[0]: self._tensor(info, start, alignment) for info in infos}
                if len(self.tensors) < len(infos):
                    raise damaged_gguf(path, "two tensors have the same name")
                self._check_overlaps()
                self._digest = self._sampled(data, header.at)
            finally:
                header.close()

    @classmethod
    def of(cls, path: Path, metadata: dict[str, Any], tensors: dict[str, GgufTensor]) -> GgufHeader:
        """The header that a file would have, for what is planned and not there. It has no fingerprint."""
        header = object.__new__(cls)
        header.path, header.metadata, header.tensors, header._digest = path, metadata, tensors, ""
        header.size = sum(tensor.nbytes for tensor in tensors.values())
        return header

    @property
    def architecture(self) -> str:
        """`general.architecture`, which all other keys of the model begin with."""
        return str(self.metadata.get("general.architecture", ""))

    def fingerprint(self) -> str:
        """A hash of the header, the size and the beginning of every tensor: files that differ, differ there."""
        return self._digest

    def number(self, key: str, default: float = 0) -> float:
        """`<architecture>.<key>`, of one value for each layer the greatest; the default where there is none."""
        found = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(found, np.ndarray) and found.size:
            found = found.max().item()
        return found if isinstance(found, int | float) else default

    def _tensor(self, info: tuple[str, tuple[int, ...], int, int], start: int, alignment: int) -> GgufTensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name, shape, number, at = info
        if at % alignment:
            raise damaged_gguf(self.path, f"{name} does not begin at a multiple of {alignment} bytes")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:  # llama.cpp may know it, or say that it doesn't
            return GgufTensor(name, shape, f"type {number}", start + at, 0)
        block, size = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise damaged_gguf(self.path, f"{name} has rows of {shape[-1]}, and {kind.name} packs {block} together")
        nbytes = prod(shape) // block * size
        if start + at + nbytes > self.size:
            raise ModelLoadError(
                f"{self.path}: the file is cut short: {name} should end at byte {start + at + nbytes:,}, and the file "
                f"has {self.size:,}; download it again"
            )
        return GgufTensor(name, shape, kind.name, start + at, nbytes)

    def _check_overlaps(self) -> None:
        """No two tensors share a byte: a file that says so is damaged, and one would be read as another."""
        last: GgufTensor | None = None
        for tensor in sorted((one for one in self.tensors.values() if one.nbytes), key=lambda one: one.start):
            if last is not None and tensor.start < last.start + last.nbytes:
                raise damaged_gguf(self.path, f"{tensor.name} begins inside {last.name}")
            last = tensor

    def _sampled(self, data: mmap.mmap, header: int) -> str:
        digest = blake2b(data[:header], digest_size=16)
        digest.update(self.size.to_bytes(8, "little"))
        for tensor in self.tensors.values():
            digest.update(data[tensor.start : tensor.start + _SAMPLE])
        return digest.hexdigest()


class _Header:
    """The part of a file before the tensors' data, read from front to back; `at` is the next byte."""

    def __init__(self, path: Path, data: memoryview, reader: str) -> None:
        self.at = 4  # behind the magic
        self._path = path
        self._reader = reader
        self._data = data

    def close(self) -> None:
        self._data.release()

    def read(self) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
        """All metadata, and name, shape, type and offset of each tensor."""
        self._check_magic()
        tensors, pairs = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(self._count(pairs, 13)):
            key = self._text()
            if len(key) > MAX_NAME:
                raise damaged_gguf(self._path, f"a key has {len(key):,} characters")
            if key in metadata:
                raise damaged_gguf(self._path, f"the key {key!r} comes twice")
            metadata[key] = self._value(self._number("I"))
        return metadata, [self._tensor() for _ in range(self._count(tensors, 32))]

    def _check_magic(self) -> None:
        magic = bytes(self._data[:4])
        if magic != b"GGUF":
            what = _OTHER_FORMATS.get(magic, f"no GGUF file; {self._reader} reads nothing else")
            raise ModelLoadError(f"{self._path}: this is {what}")
        version = self._number("I")
        if version not in (2, 3):
            why = "big-endian" if version & 0xFFFF == 0 else f"of GGUF version {version}"
            raise ModelLoadError(f"{self._path}: this file is {why}; convert the model again, to GGUF version 3")

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        if len(name) > MAX_NAME:
            raise damaged_gguf(self._path, f"a tensor's name has {len(name):,} characters")
        dimensions = self._number("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise damaged_gguf(self._path, f"{name} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        if not 0 < prod(shape) < 1 << 62:
            raise damaged_gguf(self._path, f"{name} has the shape {list(shape)}")
        return name, shape, self._number("I"), self._number("Q")

    def _value(self, kind: int) -> Any:
        if kind == 7:
            return self._bool()
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        raise damaged_gguf(self._path, f"a value of type {kind} before byte {self.at:,}")

    def _array(self) -> Any:
        kind, length = self._number("I"), self._number("Q")
        if kind in _SCALARS:
            item = np.dtype(_SCALARS[kind]).newbyteorder("<")
            raw = bytes(self._take(self._count(length, item.itemsize) * item.itemsize))
            return np.frombuffer(raw, dtype=item)
        if kind == _STRING:
            return self._strings(self._count(length, 8))
        if kind == _ARRAY:
            raise damaged_gguf(self._path, "an array of arrays, which no model uses")
        raise damaged_gguf(self._path, f"an array of type {kind} before byte {self.at:,}")

    def _strings(self, count: int) -> GgufStrings:
        begin, at, end = self.at, self.at, len(self._data)
        read = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > end:
                raise self._ends()
            at += 8 + read(self._data, at)[0]
        if at > end:
            raise self._ends()
        self.at = at
        return GgufStrings(count, bytes(self._data[begin:at]))

    def _bool(self) -> bool:
        value = self._number("B")
        if value > 1:
            raise damaged_gguf(self._path, f"a yes or no before byte {self.at:,} is {value}")
        return bool(value)

    def _text(self) -> str:
        raw = bytes(self._take(self._number("Q")))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise damaged_gguf(self._path, f"text before byte {self.at:,} is not UTF-8") from None

    def _number(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _count(self, count: int, each: int) -> int:
        """`count`, if so many things of at least `each` bytes can follow at all."""
        if count * each > len(self._data) - self.at:
            raise damaged_gguf(self._path, f"{count:,} entries should follow byte {self.at:,}, and can't fit")
        return count

    def _take(self, size: int) -> memoryview:
        if size > len(self._data) - self.at:
            raise self._ends()
        taken = self._data[self.at : self.at + size]
        self.at += size
        return taken

    def _ends(self) -> ModelLoadError:
        return damaged_gguf(self._path, f"it ends inside the header, at byte {len(self._data):,}")


def _opened(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 24:
                raise ModelLoadError(f"{path}: this is no GGUF file; it has {size} bytes")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
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


def damaged_gguf(path: Path, what: str) -> ModelLoadError:
    """The error for a file that contradicts itself."""
    return ModelLoadError(f"{path}: the file is damaged: {what}; download or convert it again")
