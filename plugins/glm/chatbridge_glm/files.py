"""Reads tensors from torch's and safetensors' files one at a time, and drops from memory what was read.

Names and shapes are read by the core, which refuses in words what is no such file, or half of one. Runs no code:
torch's files are read by `weights_only`. Knows no architecture.
"""

from __future__ import annotations

import ctypes
import mmap
import pickle
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from chatbridge import ModelLoadError, TensorInfo, read_tensors, weight_files

_SAMPLE = 128
"""Bytes that count for the fingerprint at each of three places of a tensor."""


@dataclass(slots=True)
class WeightFile:
    """One file of weights. `tensors` by their names; `key`: where in a torch file they are, "" for at its top."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    key: str = ""
    safetensors: bool = False

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def open(self) -> OpenFile:
        """Map it into memory; nothing is read before it is used."""
        if self.safetensors:
            from safetensors import safe_open

            return OpenFile(safe_open(self.path, framework="pt"), {})
        return OpenFile(None, _load(self.path, self.key))


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
    found = read_tensors(path, mapped=True)
    if key and key not in found.groups:
        raise ModelLoadError(f"{path}: this file holds no weights by name under {key!r}")
    return WeightFile(path, found.groups[key] if key else found.tensors, key, found.format == "safetensors")


_DAMAGED = (
    OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError,
    ArithmeticError,
)  # fmt: skip
"""What reading a damaged file may raise."""


def _load(path: Path, key: str) -> Mapping[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
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


def fingerprint(files: list[WeightFile]) -> str:
    """A hash of names, sizes, and a few bytes of everything in the files; their own names do not count."""
    digest = blake2b(digest_size=16)
    for file in files:
        opened = file.open()
        for name, about in sorted(file.tensors.items()):
            tensor = opened.tensor(name)
            digest.update(f"{name} {about.shape} {about.dtype}\n".encode() + _sample(tensor))
            drop(tensor)
    return digest.hexdigest()


def _sample(tensor: Any) -> bytes:
    """Some bytes of a tensor, of its beginning, its middle and its end."""
    import torch

    flat = tensor.reshape(-1).view(torch.uint8)
    middle = len(flat) // 2
    parts = (flat[:_SAMPLE], flat[middle : middle + _SAMPLE], flat[-_SAMPLE:])
    return b"".join(bytes(part.tolist()) for part in parts)


def data_files(folder: Path) -> list[Path]:
    """The files of weights in a folder of the hub's form, in order, by its index where it has one."""
    found = weight_files(folder) or sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise ModelLoadError(f"{folder}: there are no weights: neither pytorch_model*.bin nor *.safetensors")
    return found
