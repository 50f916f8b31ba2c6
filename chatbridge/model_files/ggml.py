"""Reads the headers of llama.cpp's files before GGUF: the magics ggml, ggmf, ggjt (versions 1 to 3) and ggla (LoRA).

Walks from tensor to tensor without reading weights, and so sees whether all of them are there. Knows how LLaMA was
written (llama.cpp, `convert.py` and `llama.cpp` from March to August 2023), and who else used these magics.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.tensors import MAX_NAME

MAX_TENSORS = 20_000
MAX_VOCABULARY = 1 << 21

_SCALES = {"F32": (1, 4), "F16": (1, 2), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
           "Q6_K": (256, 210), "Q8_K": (256, 292), "Q5_0": (32, 22), "Q5_1": (32, 24)}  # fmt: skip
_FIRST = {**_SCALES, "Q4_0": (32, 20), "Q4_1": (32, 24), "Q4_2": (16, 10), "Q4_3": (16, 12), "Q8_0": (32, 36)}
_LAST = {**_SCALES, "Q4_0": (32, 18), "Q4_1": (32, 20), "Q8_0": (32, 34)}
_BLOCKS = {0: _FIRST, 1: _FIRST, 2: _FIRST, 3: _LAST}
"""By the version of ggjt (0 for the older magics): numbers in a block of each type, and the block's bytes."""

_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 4: "Q4_2", 5: "Q4_3", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K",
          11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"}  # fmt: skip

_MAGICS = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt", b"algg": "ggla", b"ggml": "chatglm.cpp"}


@dataclass(frozen=True, slots=True)
class GgmlTensor:
    """A tensor of an old file. `shape`: rows first. `kind`: the name of its type ("Q4_0"); how blocks of that are laid
    out depends on the file's version. `start`, `nbytes`: where its data lie in the file."""

    shape: tuple[int, ...]
    kind: str
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgmlFile:
    """The header of an old file. `kind`: "ggml", "ggmf 1", "ggjt 3"; `program`: whose it is, "" where not llama.cpp's.

    `version`: of ggjt, 0 for the older magics: by it blocks are laid out. `types`: bytes by the type's name.
    `file_type`: what most matrices are, by llama.cpp's number. All sizes are 0 where `program` is set.
    """

    path: Path
    size: int
    kind: str
    program: str = ""
    vocabulary: int = 0
    width: int = 0
    heads: int = 0
    layers: int = 0
    tensors: Mapping[str, GgmlTensor] = field(default_factory=dict)
    types: Mapping[str, int] = field(default_factory=dict)
    version: int = 0
    file_type: int = 0


def is_ggml(begin: bytes) -> bool:
    """Whether a file that begins so is one of these."""
    return begin[:4] in _MAGICS


def read_ggml(path: Path) -> GgmlFile:
    """The header of an old GGML file. Raises ModelLoadError for one that is damaged, or only a part of one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(path, file, size)
        name = _MAGICS.get(reader.take(4), "")
        if name in ("", "chatglm.cpp"):
            return GgmlFile(path, size, "ggml", program=name or "another program")
        version = reader.number() if name != "ggml" else 0
        kind = f"{name} {version}" if version else name
        if name == "ggla":
            return GgmlFile(path, size, kind, program="llama.cpp's finetune or convert-lora-to-ggml.py")
        if name == "ggmf" and version in (100, 101):
            return GgmlFile(path, size, kind, program="rwkv.cpp")
        if (name, version) not in {("ggml", 0), ("ggmf", 1), ("ggjt", 1), ("ggjt", 2), ("ggjt", 3)}:
            raise damaged_ggml(path, f"its version is {version}; there were 1 of ggmf, and 1 to 3 of ggjt")
        sizes = reader.numbers(7)  # n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, ftype
        if not _of_llama(sizes):
            return GgmlFile(path, size, kind, program="another program than llama.cpp, as of GPT-J or GPT-2")
        for _ in reader.vocabulary(sizes[0], scores=name != "ggml"):
            pass
        layout = version if name == "ggjt" else 0
        tensors, types = reader.tensors(layout, aligned=name == "ggjt")
    return GgmlFile(
        path, size, kind, "", sizes[0], sizes[1], sizes[3], sizes[4], tensors, types, layout, sizes[6] % 1000
    )


def read_ggml_vocabulary(found: GgmlFile) -> list[tuple[bytes, float]]:
    """Text and score of each token of a LLaMA; scores are 0 in "ggml", which has none. Raises ModelLoadError."""
    with found.path.open("rb") as file:
        reader = _Reader(found.path, file, found.size)
        reader.take(4 + 28 if found.kind == "ggml" else 8 + 28)
        return list(reader.vocabulary(found.vocabulary, scores=found.kind != "ggml"))


def damaged_ggml(path: Path, what: str) -> ModelLoadError:
    """The error for an old file that contradicts itself."""
    return ModelLoadError(f"{path}: the file is damaged: {what}; download it again")


def _of_llama(sizes: tuple[int, ...]) -> bool:
    """Whether the seven numbers can be LLaMA's: all heads are turned whole."""
    vocabulary, width, _, heads, layers, turned, _ = sizes
    plausible = 0 < vocabulary <= MAX_VOCABULARY and 0 < heads <= width < 1 << 20 and 0 < layers < 10_000
    return plausible and width % heads == 0 and turned == width // heads


class _Reader:
    """Reads a file from front to back, and never more than a name at a time."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size, self.at = path, file, size, 0

    def take(self, count: int) -> bytes:
        taken = self.file.read(count) if count <= self.size - self.at else b""
        if len(taken) < count:
            raise self.half("its header is cut short")
        self.at += count
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def numbers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", self.take(4 * count))

    def skip(self, count: int) -> None:
        self.at += count
        self.file.seek(self.at)

    def half(self, what: str) -> ModelLoadError:
        return ModelLoadError(
            f"{self.path}: only a part of the file was downloaded: {self.size:,} bytes are there, and {what}; download "
            f"it again"
        )

    def vocabulary(self, count: int, *, scores: bool) -> Iterator[tuple[bytes, float]]:
        for number in range(count):
            length = self.number()
            if length > MAX_NAME:
                raise damaged_ggml(self.path, f"token {number} has {length:,} bytes")
            text = self.take(length)
            yield text, struct.unpack("<f", self.take(4))[0] if scores else 0.0

    def tensors(self, version: int, *, aligned: bool) -> tuple[dict[str, GgmlTensor], Counter[str]]:
        found: dict[str, GgmlTensor] = {}
        types: Counter[str] = Counter()
        while self.at < self.size:
            dimensions, length, number = self.numbers(3)
            if not 1 <= dimensions <= 4 or not 0 < length <= MAX_NAME or len(found) >= MAX_TENSORS:
                raise damaged_ggml(
                    self.path, f"tensor {len(found)} has {dimensions} sizes and a name of {length} bytes"
                )
            shape = self.numbers(dimensions)[::-1]
            name = self.take(length).decode("utf-8", "backslashreplace")
            kind = _TYPES.get(number, "")
            block, width = _BLOCKS[version].get(kind, (0, 0))
            if not block or min(shape) <= 0 or shape[-1] % block:
                raise damaged_ggml(self.path, f"{name} has the shape {list(shape)} and the type {kind or number}")
            if name in found:
                raise damaged_ggml(self.path, f"two tensors are called {name}")
            self.skip(-self.at % 32 if aligned else 0)
            start, nbytes = self.at, prod(shape) // block * width
            self.skip(nbytes)
            if self.at > self.size:
                raise self.half(f"{name} should end at byte {self.at:,}")
            found[name] = GgmlTensor(shape, kind, start, nbytes)
            types[kind] += nbytes
        return found, types
