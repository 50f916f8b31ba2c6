"""What a GLM model remembers of one conversation: keys and values of all layers, never more than the context's length.

Knows shapes, copies and bytes; computes nothing. What stands before `sop` was read in both directions, so a state can
be cut behind it or at its end, and otherwise only to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from chatbridge import BackendError

_MAGIC = b"chatbridge-glm-1\n"
_DIGEST = 16
_GROWTH = 64

Prefix = Sequence[tuple[Any, Any]]
"""Keys and values [heads, tokens, head] of a P-Tuning prefix, by layers."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How caches of a model look: `devices` by layers, and each layer's [heads, tokens, head_size] of `dtype`.

    `max_length`: tokens of a conversation at most. `fingerprint`: of the model, for saved states.
    """

    devices: tuple[Any, ...]
    heads: int
    head_size: int
    dtype: Any
    max_length: int
    fingerprint: str

    @property
    def token_bytes(self) -> int:
        """Of one token in all layers."""
        width = int(torch.empty(0, dtype=self.dtype).element_size())
        return 2 * len(self.devices) * self.heads * self.head_size * width


@dataclass(slots=True, eq=False)
class GlmState:
    """A `ModelState`. `context`: tokens before `sop`; `mask_at`: where in them the answer belongs, see `rotary`.

    `reading`: the pass that its next tokens are on their way in; `read`: what came out for the last of them, and how
    many they are.
    """

    layout: Layout
    prefix: Prefix = ()
    length: int = 0
    context: int = 0
    mask_at: int = 0
    keys: list[Any] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    reading: Any = None
    read: Any = None
    released: bool = False

    @property
    def before(self) -> int:
        """Tokens of the prefix, which stand before all others in the cache."""
        return int(self.prefix[0][0].shape[1]) if self.prefix else 0

    @property
    def nbytes(self) -> int:
        return sum(int(tensor.nbytes) for tensor in (*self.keys, *self.values)) or 1

    def reserve(self, length: int) -> None:
        """Make room for that many tokens."""
        needed = self.before + length
        capacity = self.keys[0].shape[1] if self.keys else 0
        if needed <= capacity:
            return
        room = max(needed, capacity + capacity // 4)
        room = min(-(-room // _GROWTH) * _GROWTH, max(self.before + self.layout.max_length, needed))
        self._resize(room)

    def fork(self) -> GlmState:
        """A copy that shares no memory."""
        copy = GlmState(self.layout, self.prefix, self.length, self.context, self.mask_at)
        if self.length:
            used = self.before + self.length
            copy.keys = [tensor[:, :used].clone() for tensor in self.keys]
            copy.values = [tensor[:, :used].clone() for tensor in self.values]
        return copy

    def trim(self, length: int) -> None:
        """Forget all but the first `length` tokens. Raises BackendError inside of what was read in both directions."""
        if not 0 <= length <= self.length or 0 < length < min(self.context, self.length):
            raise BackendError(
                f"a state of {self.length} tokens, {self.context} of them read in both directions, can't become one of "
                f"{length}"
            )
        self.length = length
        self.reading = self.read = None
        if not length:
            self.keys, self.values, self.context = [], [], 0
        elif 2 * (self.before + length) + _GROWTH < self.keys[0].shape[1]:
            self._resize(self.before + length)

    def save(self) -> bytes:
        """Lengths, keys and values, with a digest of the model and of all that."""
        used = slice(self.before, self.before + self.length)
        parts = [np.array([self.length, self.context, self.mask_at], "<i8").tobytes()]
        for tensor in (*self.keys, *self.values):
            parts.append(tensor[:, used].contiguous().cpu().view(torch.uint8).numpy().tobytes())
        body = b"".join(parts)
        return _MAGIC + _seal(self.layout, body) + body

    def restore(self, saved: bytes) -> None:
        """The way back, into an empty state. Raises BackendError for what is damaged or another model's."""
        head = len(_MAGIC) + _DIGEST
        body = saved[head:]
        if saved[:head] != _MAGIC + _seal(self.layout, body):
            raise BackendError("the saved state is damaged or belongs to another model")
        length, context, mask_at = np.frombuffer(body[:24], "<i8").tolist()
        if length > self.layout.max_length:
            raise BackendError(f"the saved state has {length} tokens, more than context_length")
        self.length, self.context, self.mask_at = length, context, mask_at
        if not length:
            return
        self.reserve(length)
        shape = (self.layout.heads, length, self.layout.head_size)
        size = (len(body) - 24) // (2 * len(self.layout.devices))
        for number, tensor in enumerate((*self.keys, *self.values)):
            part = np.frombuffer(body, np.uint8, size, 24 + number * size).copy()
            tensor[:, self.before : self.before + length] = torch.from_numpy(part).view(self.layout.dtype).view(shape)

    def release(self) -> None:
        self.keys, self.values, self.length = [], [], 0
        self.reading = self.read = None
        self.released = True

    def _resize(self, room: int) -> None:
        layout = self.layout
        kept = self.before + self.length if self.keys else self.before
        for number, device in enumerate(layout.devices):
            fresh = [
                torch.empty(layout.heads, room, layout.head_size, dtype=layout.dtype, device=device) for _ in range(2)
            ]
            old = (self.keys[number], self.values[number]) if len(self.keys) > number else self._prefix(number)
            for new, tensor in zip(fresh, old, strict=True):
                if tensor is not None:
                    new[:, :kept] = tensor[:, :kept]
            self.keys[number : number + 1] = [fresh[0]]
            self.values[number : number + 1] = [fresh[1]]

    def _prefix(self, number: int) -> tuple[Any, Any]:
        return self.prefix[number] if self.prefix else (None, None)


def _seal(layout: Layout, body: bytes) -> bytes:
    return blake2b(layout.fingerprint.encode() + body, digest_size=_DIGEST).digest()
