"""What a model remembers of one conversation: keys and values of each layer, in buffers that grow.

Knows tensors, copies and bytes; knows no model and no batch.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as files

from chatbridge import BackendError

_MAGIC = b"chatbridge-transformers-1\n"
_DIGEST_SIZE = 16
_LEAST = 64
"""Tokens that a buffer has room for at least."""


class KvStates:
    """Makes the states of one model. `fingerprint`: of the model; `limit`: tokens that a state may have."""

    def __init__(self, fingerprint: str, limit: int) -> None:
        self.limit = limit
        self._key = fingerprint.encode()[:64]

    def new(self, saved: bytes | None = None, adapter: str = "", digest: str = "") -> KvState:
        """An empty state, or the saved one; `digest` stands for the adapter's arithmetic.

        Raises: BackendError where what was saved is damaged, or another model's or adapter's.
        """
        state = KvState(self, adapter, digest)
        if saved is None:
            return state
        start = len(_MAGIC) + _DIGEST_SIZE
        body = saved[start:]
        if saved[:start] != _MAGIC + self.digest(body, digest):
            raise BackendError(
                "a saved state is damaged or belongs to another model: leave it out, and the prompt is read again"
            )
        state.length = int.from_bytes(body[:8], "little")
        if state.length > self.limit:
            raise BackendError(
                f"a saved state has {state.length} tokens, more than context_length: {self.limit}; raise it, or leave "
                f"the state out"
            )
        try:
            state.restore(files.load(body[8:]))
        except (SafetensorError, KeyError, ValueError) as error:
            raise BackendError(f"a saved state can't be read: {error}") from error
        return state

    def digest(self, body: bytes, adapter: str) -> bytes:
        """A checksum of `body` that only the same model gives with the same adapter."""
        hashed = blake2b(adapter.encode(), digest_size=_DIGEST_SIZE, key=self._key)
        hashed.update(body)
        return hashed.digest()

    def save(self, length: int, tensors: dict[str, Any], digest: str) -> bytes:
        body = length.to_bytes(8, "little") + bytes(files.save(tensors))
        return b"".join((_MAGIC, self.digest(body, digest), body))


class KvState:
    """A `ModelState`. `adapter`: what reads its tokens.

    `layers`: by number, keys [heads, room, size] and values [heads, room, size], of which the first `length` places
    count. What a step writes behind them counts once `length` is raised: a step that fails leaves nothing.
    """

    def __init__(self, states: KvStates, adapter: str, digest: str) -> None:
        self.length = 0
        self.adapter = adapter
        self.layers: dict[int, list[Any]] = {}
        self._states = states
        self._digest = digest

    @property
    def nbytes(self) -> int:
        return 64 + sum(int(tensor.nbytes) for layer in self.layers.values() for tensor in layer)

    def append(self, number: int, keys: Any, values: Any) -> tuple[Any, Any]:
        """Write the new ones, [heads, tokens, size], behind the others; return all, [heads, all tokens, size]."""
        count = keys.shape[1]
        end = self.length + count
        layer = self.layers.get(number)
        if layer is None or layer[0].shape[1] < end:
            layer = self._grown(layer, end, keys, values)
            self.layers[number] = layer
        layer[0].narrow(1, self.length, count).copy_(keys)
        layer[1].narrow(1, self.length, count).copy_(values)
        return layer[0].narrow(1, 0, end), layer[1].narrow(1, 0, end)

    def view(self, number: int) -> tuple[Any, Any]:
        """The keys and values of a layer so far."""
        keys, values = self.layers[number]
        return keys[:, : self.length], values[:, : self.length]

    def fork(self) -> KvState:
        copy = KvState(self._states, self.adapter, self._digest)
        copy.length = self.length
        copy.layers = {n: [t[:, : self.length].clone() for t in layer] for n, layer in self.layers.items()}
        return copy

    def trim(self, length: int) -> None:
        self.length = length

    def save(self) -> bytes:
        tensors = {
            f"{kind}.{number}": tensor[:, : self.length].detach().cpu().contiguous()
            for number, layer in self.layers.items()
            for kind, tensor in zip("kv", layer, strict=True)
        }
        return self._states.save(self.length, tensors, self._digest)

    def restore(self, tensors: dict[str, Any]) -> None:
        """Take saved tensors for the layers; they go where the layer is when it is computed next."""
        for name in tensors:
            kind, _, number = name.partition(".")
            if kind == "k":
                pair = [tensors[name], tensors[f"v.{number}"]]
                if any(tensor.dim() != 3 or tensor.shape[1] != self.length for tensor in pair):
                    raise ValueError(f"layer {number} has not {self.length} places")
                self.layers[int(number)] = pair

    def release(self) -> None:
        self.layers = {}

    def _grown(self, layer: list[Any] | None, end: int, keys: Any, values: Any) -> list[Any]:
        room = 0 if layer is None else layer[0].shape[1]
        room = max(end, min(self._states.limit, max(_LEAST, 2 * room)))
        grown = []
        for at, new in enumerate((keys, values)):
            buffer = torch.empty((new.shape[0], room, new.shape[2]), dtype=new.dtype, device=new.device)
            if layer is not None and self.length:
                buffer[:, : self.length] = layer[at][:, : self.length]
            grown.append(buffer)
        return grown
