"""The KV cache of one conversation: grows, forks, trims, is saved and loaded. Knows no weights and no tokens."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import BackendError

Floats = NDArray[np.float32]

_MAGIC = b"chatbridge-numpy-kv-1\n"
_FIRST = 64
"""Tokens that a fresh cache has room for; it doubles when it is full."""


class KVCache:
    """Keys and values of every token consumed.

    `kv`: float32 of shape [layers, 2, KV heads, capacity, head size], so that one head's keys are one contiguous
    matrix. `shape` is the same without the capacity. `fingerprint`: the model that it belongs to.
    """

    __slots__ = ("fingerprint", "kv", "length", "limit")

    def __init__(self, shape: tuple[int, int, int, int], limit: int, fingerprint: str) -> None:
        layers, two, heads, size = shape
        self.kv: Floats = np.empty((layers, two, heads, min(_FIRST, limit), size), np.float32)
        self.length = 0
        self.limit = limit
        self.fingerprint = fingerprint

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes

    def reserve(self, count: int) -> None:
        """Make room for `count` more tokens."""
        if self.length + count > self.kv.shape[3]:
            self._move(min(self.limit, max(2 * self.kv.shape[3], self.length + count)))

    def fork(self) -> KVCache:
        copy = object.__new__(KVCache)
        copy.kv, copy.length, copy.limit, copy.fingerprint = self.kv, self.length, self.limit, self.fingerprint
        copy._move(min(self.limit, max(_FIRST, self.length + self.length // 4)))
        return copy

    def trim(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"a state of {self.length} tokens can't be trimmed to {length}")
        self.length = length

    def save(self) -> bytes:
        used = self.kv[:, :, :, : self.length]
        header = {"fingerprint": self.fingerprint, "shape": used.shape}
        return b"".join((_MAGIC, json.dumps(header).encode(), b"\n", used.astype("<f4", copy=False).tobytes()))

    def load(self, saved: bytes) -> None:
        """Take over what `save` wrote. Raises BackendError where it is damaged or another model's."""
        magic, (head, _, body) = saved[: len(_MAGIC)], saved[len(_MAGIC) :].partition(b"\n")
        header: Any = json.loads(head) if magic == _MAGIC and head.startswith(b"{") and head.endswith(b"}") else {}
        if header.get("fingerprint") != self.fingerprint:
            raise BackendError("a saved state belongs to another model, or to none: leave it out and read the prompt")
        layers, two, heads, length, size = header["shape"]
        if (layers, two, heads, size) != (*self.kv.shape[:3], self.kv.shape[4]) or (
            len(body) != 4 * layers * two * heads * length * size or length > self.limit
        ):
            raise BackendError("a saved state is damaged or longer than the context: leave it out")
        self.length = 0
        self.reserve(length)
        self.kv[:, :, :, :length] = np.frombuffer(body, "<f4").reshape(header["shape"])
        self.length = length

    def release(self) -> None:
        self.length = 0
        self.kv = self.kv[:, :, :, :0].copy()

    def _move(self, capacity: int) -> None:
        layers, two, heads, _, size = self.kv.shape
        moved = np.empty((layers, two, heads, capacity, size), np.float32)
        moved[:, :, :, : self.length] = self.kv[:, :, :, : self.length]
        self.kv = moved
