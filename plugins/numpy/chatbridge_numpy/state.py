"""The KV cache of one conversation: grows, forks, trims, is saved and loaded. Knows no weights and no tokens."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from chatbridge import BackendError

Floats = NDArray[np.float32]

_MAGIC = b"chatbridge-numpy-kv-1\n"
_DIGEST = 16
_INITIAL_CAPACITY = 64
"""Tokens that a new cache has room for; a full one is doubled."""


class KVCache:
    """Keys and values of every token consumed.

    `kv`: float32 of shape [layers, 2, KV heads, capacity, head size], so that one head's keys are one contiguous
    matrix. `shape` is the same without the capacity. `limit`: the capacity that it never exceeds, in tokens.
    `fingerprint`: the model that it belongs to.
    """

    __slots__ = ("fingerprint", "kv", "length", "limit")

    def __init__(self, shape: tuple[int, int, int, int], limit: int, fingerprint: str) -> None:
        layers, two, heads, size = shape
        self.kv: Floats = np.empty((layers, two, heads, min(_INITIAL_CAPACITY, limit), size), np.float32)
        self.length = 0
        self.limit = limit
        self.fingerprint = fingerprint

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes

    def reserve(self, count: int) -> None:
        """Make room for `count` more tokens; the caller has checked that `limit` is not exceeded."""
        if self.length + count > self.kv.shape[3]:
            self._reallocate(min(self.limit, max(2 * self.kv.shape[3], self.length + count)))

    def fork(self) -> KVCache:
        copy = object.__new__(KVCache)
        copy.kv, copy.length, copy.limit, copy.fingerprint = self.kv, self.length, self.limit, self.fingerprint
        copy._reallocate(min(self.limit, max(_INITIAL_CAPACITY, self.length + self.length // 4)))
        return copy

    def trim(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"a state of {self.length} tokens can't be trimmed to {length}")
        self.length = length

    def save(self) -> bytes:
        body = self.kv[:, :, :, : self.length].astype("<f4", copy=False).tobytes()
        return b"".join((_MAGIC, self._digest(body), body))

    def load(self, saved: bytes) -> None:
        """Read what `save` wrote. Raises BackendError where it is damaged, too long or another model's."""
        rest = memoryview(saved)[len(_MAGIC) :]
        digest, body = rest[:_DIGEST], rest[_DIGEST:]
        if not saved.startswith(_MAGIC) or self._digest(body) != digest:
            raise BackendError(
                "a saved state is damaged or belongs to another model: leave it out, and the prompt is read again"
            )
        layers, two, heads, _, size = self.kv.shape
        values = np.frombuffer(body, "<f4").reshape(layers, two, heads, -1, size)
        length = values.shape[3]
        if length > self.limit:
            raise BackendError(
                f"a saved state has {length} tokens, more than context_length: {self.limit}; raise it, or leave the "
                f"state out"
            )
        self.length = 0
        self.reserve(length)
        self.kv[:, :, :, :length] = values
        self.length = length

    def release(self) -> None:
        self.length = 0
        self.kv = self.kv[:, :, :, :0].copy()

    def _digest(self, body: bytes | memoryview) -> bytes:
        """A hash of `body` and of the model, and so of the shape that `body` has."""
        return blake2b(body, digest_size=_DIGEST, key=self.fingerprint.encode()).digest()

    def _reallocate(self, capacity: int) -> None:
        layers, two, heads, _, size = self.kv.shape
        moved = np.empty((layers, two, heads, capacity, size), np.float32)
        moved[:, :, :, : self.length] = self.kv[:, :, :, : self.length]
        self.kv = moved
