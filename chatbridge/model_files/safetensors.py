"""Reads the header of a safetensors file, and trusts nothing in it. Knows the container; reads no weights.

The format: github.com/huggingface/safetensors, README, "Format". Read here rather than by the package, which plugins
bring and the core does not need, and whose errors do not say how much of a file is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from operator import index
from pathlib import Path
from typing import Any

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.tensors import MAX_DIMENSIONS, MAX_NAME, MAX_TENSORS, WIDTHS, TensorFile, TensorInfo

MAX_HEADER = 32 << 20
"""Bytes of a header; that of a file of 10,000 tensors has about 1 MiB."""

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "C64": "complex64",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""Types of numbers, by their codes in the header, as torch calls them."""

_DAMAGED = (ValueError, AttributeError, LookupError, TypeError, OverflowError, RecursionError)
"""What reading a damaged header may raise."""


def read_safetensors(path: Path) -> TensorFile:
    """The header of a safetensors file. Raises ModelLoadError for what is none, is damaged, or only a part of one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(9)
        length = int.from_bytes(begin[:8], "little")
        if begin[8:] not in (b"{", b""):
            raise ModelLoadError(f"{path}: this is no safetensors file, or its header is damaged; download it again")
        if length > MAX_HEADER:
            raise _damaged(path, f"it should have {length:,} bytes, and {MAX_HEADER:,} are the most")
        if len(begin) < 9 or 8 + length > size:
            raise _half(path, f"{size:,} bytes are there, and its beginning alone has {8 + length:,}")
        raw = begin[8:] + file.read(length - 1) if length else b""
    if raw.count(b"[") + raw.count(b"{") > len(raw) // 16 + 16:  # no header of tensors is so dense; lists fill memory
        raise _damaged(path, "it holds something else than tensors")
    try:
        tensors, notes, end = _entries(path, json.loads(raw, object_pairs_hook=_unique), 8 + length)
    except _DAMAGED as error:
        raise _damaged(path, f"{error}" or type(error).__name__) from error
    if end > size:
        raise _half(path, f"{size:,} of {end:,} bytes are there")
    if sum(tensor.nbytes for tensor in tensors.values()) != end - 8 - length:
        raise _damaged(path, "its tensors overlap, or leave gaps")
    if end < size:
        raise _damaged(path, f"it promises {end:,} bytes, and the file has {size:,}")
    return TensorFile(path, "safetensors", size, tensors, values=notes)


def _entries(path: Path, header: Any, data: int) -> tuple[dict[str, TensorInfo], Mapping[str, str], int]:
    """Tensors, notes, and where the last tensor ends."""
    notes = header.pop("__metadata__", None) or {}
    if len(header) > MAX_TENSORS:
        raise _damaged(path, f"it names {len(header):,} tensors, and {MAX_TENSORS:,} are the most")
    found, end = {}, data
    for name, entry in header.items():
        if len(name) > MAX_NAME:
            raise ValueError(f"a name has {len(name):,} characters")
        name.encode()  # raises a ValueError for half a character, which JSON can have
        first, last = map(index, entry["data_offsets"])
        shape = tuple(map(index, entry["shape"]))
        dtype = DTYPES.get(entry["dtype"], str(entry["dtype"])[:32])
        if not 0 <= first <= last or min(shape, default=0) < 0 or len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"{name[:200]} lies at {first}:{last} and has {len(shape)} sizes")
        if dtype in WIDTHS and prod(shape) * WIDTHS[dtype] != last - first:
            raise ValueError(f"{name[:200]} needs {prod(shape) * WIDTHS[dtype]:,} bytes and has {last - first:,}")
        found[name] = TensorInfo(shape, dtype, last - first, data + first)
        end = max(end, data + last)
    return found, {str(key): str(value) for key, value in notes.items()}, end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("two tensors have the same name")
    return found


def _damaged(path: Path, what: str) -> ModelLoadError:
    return ModelLoadError(f"{path}: its header is damaged ({what}); download it again")


def _half(path: Path, what: str) -> ModelLoadError:
    return ModelLoadError(f"{path}: only a part of the file was downloaded: {what}; download it again")
