"""Reads tensors from torch's and safetensors' files one at a time, and drops from memory what was read.

Looks at names and shapes without reading weights. A file that is no such file, or half of one, is refused in words.
Runs no code: torch's files are read by `weights_only`. Knows no architecture.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from operator import index as as_index
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError

_SAMPLE = 128
"""Bytes that count for the fingerprint at each of three places of a tensor."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a file: its shape, its type's name (`float16`), and its bytes."""

    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclass(slots=True)
class WeightFile:
    """One file of weights. `tensors` by their names; `key`: where in a torch file they are, "" for at its top."""

    path: Path
    tensors: Mapping[str, Tensor]
    key: str = ""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def open(self) -> OpenFile:
        """Map it into memory; nothing is read before it is used."""
        if self.path.suffix == ".safetensors":
            from safetensors import safe_open

            return OpenFile(safe_open(self.path, framework="pt"), {})
        return OpenFile(None, _load(self.path, "cpu", self.key))


@dataclass(slots=True)
class OpenFile:
    """A file that is mapped into memory."""

    _safe: Any
    _torch: Mapping[str, Any]

    def tensor(self, name: str) -> Any:
        """The tensor as it lies in the file: not to be changed, and to be given to `drop` when it is no more needed."""
        return self._torch[name] if self._safe is None else self._safe.get_tensor(name)


def look(path: Path, key: str = "") -> WeightFile:
    """Names and shapes of a file, without its weights. Raises ModelLoadError."""
    refuse_half_a_file(path)
    if path.suffix == ".safetensors":
        return WeightFile(path, _safe_tensors(path)[0])
    found = _load(path, "meta", key)
    tensors = {
        name: Tensor(tuple(value.shape), str(value.dtype).removeprefix("torch."), value.nbytes)
        for name, value in found.items()
        if hasattr(value, "shape")
    }
    return WeightFile(path, tensors, key)


def _safe_tensors(path: Path) -> tuple[dict[str, Tensor], int]:
    """What a safetensors file says that it holds, and how many bytes it has if it is whole. Raises ModelLoadError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if 0 < length < min(path.stat().st_size, 1 << 27) else None
        found, whole = {}, 8 + length
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = map(as_index, entry["data_offsets"])
                shape = tuple(map(as_index, entry["shape"]))
                if not 0 <= start <= end or min(shape, default=0) < 0:
                    raise ValueError(name)
                found[name] = Tensor(shape, _SAFE_TYPES.get(entry["dtype"], entry["dtype"]), end - start)
                whole = max(whole, 8 + length + end)
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ModelLoadError(f"{path}: this is no safetensors file, or its beginning is damaged") from error
    return found, whole


_SAFE_TYPES = {"F16": "float16", "F32": "float32", "BF16": "bfloat16", "I8": "int8"}


_DAMAGED = (
    OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError,
    ArithmeticError, zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged file may raise."""


def _load(path: Path, device: str, key: str) -> Mapping[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location=device, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(
            f"{path}: the file holds more than weights, and nothing in it is run: {str(error).splitlines()[0]}"
        ) from None
    except _DAMAGED as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelLoadError(f"{path}: the file is damaged: {why}") from None
    if key and isinstance(found, dict):
        found = found.get(key)
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path}: this file holds no weights by name")
    return found


def drop(tensor: Any) -> None:
    """Let the pages go that a mapped tensor was read from, so that a file that was read takes no memory.

    The system would do so itself when it is short of memory; but until then it would all count as this process's.
    """
    madvise = _madvise()
    if madvise is None or tensor.device.type != "cpu" or tensor.nbytes < 4 * mmap.PAGESIZE:
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
    if length > 0:
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), 4)  # MADV_DONTNEED: of a file, it is read again


@cache
def _madvise() -> Any:
    if sys.platform != "linux":
        return None
    with suppress(OSError, AttributeError):
        return ctypes.CDLL(None, use_errno=True).madvise
    return None


def refuse_half_a_file(path: Path) -> None:
    """Raises ModelLoadError for what is not there, stands for a file elsewhere, or is the beginning of one."""
    if not path.exists():
        raise ModelLoadError(f"{path}: there is no such file; a part of the download is missing")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise ModelLoadError(
            f"{path}: this is a git-lfs pointer of {size} bytes and not the weights; run `git lfs pull` in its folder, "
            "or download the file"
        )
    if re.match(rb"\s*<[!?a-zA-Z]", start):  # by "<" alone a length in safetensors can begin
        raise ModelLoadError(f"{path}: this is a web page and not the weights; download the file itself")
    if path.suffix == ".safetensors":
        return _refuse_half_safetensors(path, size)
    if start[:4] == b"GGUF" or start[:4] in (b"ggml", b"lmgg", b"fmgg", b"tjgg"):
        raise ModelLoadError(f"{path}: this is a file for llama.cpp or chatglm.cpp; take the one that it was made from")
    if start[:4] != b"PK\x03\x04":
        what = "a file of a torch before 1.6: torch.load and torch.save it once" if start[:1] == b"\x80" else "no file"
        raise ModelLoadError(f"{path}: this is {what if what != 'no file' else 'no file of torch or safetensors'}")
    if not _ends_as_a_zip(path):
        raise ModelLoadError(f"{path}: its end is missing: {size:,} bytes are there; download it once more")
    return None


def _ends_as_a_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end is there, and damaged
        return False


def _refuse_half_safetensors(path: Path, size: int) -> None:
    _, whole = _safe_tensors(path)
    if size < whole:
        raise ModelLoadError(f"{path}: {size:,} of {whole:,} bytes are there; download it once more")


def fingerprint(files: list[WeightFile]) -> str:
    """A hash of names, sizes, and a few bytes of everything in the files; their own names do not count."""
    digest = blake2b(digest_size=16)
    for file in files:
        opened = file.open()
        for name, about in sorted(file.tensors.items()):
            tensor = opened.tensor(name)
            digest.update(f"{name} {about}\n".encode() + _sample(tensor))
            drop(tensor)
    return digest.hexdigest()


def _sample(tensor: Any) -> bytes:
    """Some bytes of a tensor, of its beginning, its middle and its end."""
    import torch

    flat = tensor.reshape(-1).view(torch.uint8)
    middle = len(flat) // 2
    parts = (flat[:_SAMPLE], flat[middle : middle + _SAMPLE], flat[-_SAMPLE:])
    return b"".join(bytes(part.tolist()) for part in parts)


def data_files(folder: Path) -> Iterator[Path]:
    """The files of weights in a folder of the hub's form, in order, by its index where it has one."""
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        indices = sorted(folder.glob(f"{pattern}.index.json"))
        for index in indices:
            names = sorted({*_index(index).values()})
            yield from (folder / name for name in names)
            return
        if found := sorted(path for path in folder.glob(pattern) if os.path.sep not in path.name):
            yield from found
            return
    raise ModelLoadError(f"{folder}: there are no weights: neither pytorch_model*.bin nor *.safetensors")


def _index(path: Path) -> Mapping[str, str]:
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelLoadError(f"{path}: this is no index of shards: {error}; download it once more") from error
    for name in found.values():
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise ModelLoadError(f"{path}: it names {name!r}, which is not in its folder")
    return found
