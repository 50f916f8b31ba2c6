"""The container of a safetensors file, for `write_tensors`. Knows the format; writes no file.

The format: github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from chatbridge.model_files.safetensors import DTYPES
from chatbridge.model_tools.output import NewTensor

_CODES = {word: code for code, word in DTYPES.items()}


class SafetensorsFile:
    """`notes`: the file's metadata; transformers wants `{"format": "pt"}`. Raises ValueError for what it can't have."""

    def __init__(self, tensors: Sequence[NewTensor], notes: Mapping[str, str] | None = None) -> None:
        entries: dict[str, object] = {"__metadata__": dict(notes if notes is not None else {"format": "pt"})}
        at = 0
        for tensor in tensors:
            if tensor.dtype not in _CODES:
                raise ValueError(f"safetensors has no {tensor.dtype}")
            if tensor.strides:
                raise ValueError(f"safetensors has no strides, and {tensor.name} has them")
            span = [at, at := at + tensor.nbytes]
            entries[tensor.name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        self._head = len(header).to_bytes(8, "little") + header
        self._empty = not tensors

    def before(self, number: int) -> bytes:
        """The header, before the first tensor."""
        return self._head if number == 0 else b""

    def after(self, checks: Sequence[int]) -> bytes:
        """Nothing, but for the header of a file without tensors."""
        return self._head if self._empty else b""

    def patch(self, number: int, check: int) -> None:
        """Nothing."""
