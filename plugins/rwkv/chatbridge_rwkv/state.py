"""What an RWKV model remembers of a conversation: a few small tensors, as large after one token as after a million.

Knows shapes, copies and bytes; knows no arithmetic. Conversations that are computed together lie side by side in one
batch, which computes in place; a state takes its own tensors back when others are computed. Names, by layer:

    here                    RWKV-4, rwkv package    RWKV-5 and 6    RWKV-7
    att_x_prev, ffn_x_prev  att_xx, ffn_xx          the same        att_x_prev, ffn_x_prev
    wkv_state               att_aa, att_bb, att_pp  att_kv          att_kv
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from chatbridge import BackendError

_MAGIC = b"chatbridge-rwkv-1\n"
_DIGEST_SIZE = 16

HEADER = len(_MAGIC) + _DIGEST_SIZE
"""Bytes at the beginning of a saved state, which say which model file it belongs to."""

Tensors = list[Any]
"""One conversation's tensors in the order of `Layout.shapes`, [items, …] each; [items, conversations, …] in a batch."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How states of a model are laid out in a few large tensors.

    `shapes` and `devices`: of each tensor of a conversation, all float32. Each run of neighbouring layers on one device
    has two: x_prev [2 * layers, width], and wkv_state, which is [3 * layers, width] in RWKV-4 (aa, bb, pp) and
    [layers, heads, size, size] later. `places`: for each layer, which run, and which layer of it. `has_heads`: it is
    of RWKV-5 or later. `nbytes`: of one conversation.
    """

    shapes: tuple[tuple[int, ...], ...]
    devices: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    has_heads: bool
    nbytes: int

    @classmethod
    def of(cls, devices: Sequence[str], width: int, attention: int, heads: int, head_size: int) -> Layout:
        """The layout for layers on `devices`. RWKV-4 has 0 heads."""
        runs: list[tuple[str, int]] = []
        places = []
        for device in devices:
            if not runs or runs[-1][0] != device:
                runs.append((device, 0))
            places.append((len(runs) - 1, runs[-1][1]))
            runs[-1] = (device, runs[-1][1] + 1)
        shapes: list[tuple[int, ...]] = []
        for _, count in runs:
            shapes.append((2 * count, width))
            shapes.append((count, heads, head_size, head_size) if heads else (3 * count, attention))
        nbytes = 4 * sum(int(np.prod(shape)) for shape in shapes)
        devices_of_tensors = tuple(device for device, _ in runs for _ in range(2))
        return cls(tuple(shapes), devices_of_tensors, tuple(places), bool(heads), nbytes)

    def empty(self) -> Tensors:
        """A conversation without tokens."""
        tensors = [
            torch.zeros(shape, dtype=torch.float32, device=device)
            for shape, device in zip(self.shapes, self.devices, strict=True)
        ]
        if not self.has_heads:
            for aa_bb_pp in tensors[1::2]:
                aa_bb_pp[2::3] = -1e30  # pp, an exponent: e to it is 0
        return tensors

    def views(self, tensors: Tensors) -> list[tuple[Any, ...]]:
        """Each layer's share: att_x_prev, ffn_x_prev, then its wkv_state: aa, bb and pp, or one tensor with heads."""
        found: list[tuple[Any, ...]] = []
        for run, at in self.places:
            x_prev, wkv_state = tensors[2 * run], tensors[2 * run + 1]
            own = (wkv_state[at],) if self.has_heads else tuple(wkv_state[3 * at : 3 * at + 3])
            found.append((x_prev[2 * at], x_prev[2 * at + 1], *own))
        return found


class RwkvState:
    """One conversation's state; a `ModelState`. Made by `States.new`."""

    def __init__(self, states: States, tensors: Tensors, initial: Tensors | None, length: int = 0) -> None:
        self.length = length
        self._states = states
        self._initial = initial
        self._own: Tensors | None = tensors
        self._batch: Batch | None = None

    @property
    def nbytes(self) -> int:
        return self._states.layout.nbytes

    @property
    def tensors(self) -> Tensors:
        """Its tensors as they are now; not a copy."""
        if self._batch is not None:
            number = self._batch.members.index(self)
            return [tensor.select(1, number) for tensor in self._batch.tensors]
        assert self._own is not None, "a released state was used"
        return self._own

    def fork(self) -> RwkvState:
        return RwkvState(self._states, [tensor.clone() for tensor in self.tensors], self._initial, self.length)

    def trim(self, length: int) -> None:
        raise BackendError("an RWKV state can't forget its last tokens")

    def save(self) -> bytes:
        body = b"".join((self.length.to_bytes(8, "little"), *(_bytes(tensor) for tensor in self.tensors)))
        return b"".join((_MAGIC, self._states.file, self._states.digest(body), body))

    def release(self) -> None:
        self._own = self._batch = None

    def join(self, batch: Batch) -> None:
        self._own, self._batch = None, batch

    def leave(self) -> None:
        """Take its tensors out of the batch."""
        if self._batch is not None:
            alone = len(self._batch.members) == 1
            self._own = [tensor if alone else tensor.contiguous() for tensor in self.tensors]
            self._batch = None

    def reset(self) -> None:
        """Go back to before the first token: a step that failed half way has left nothing that could be used."""
        self.length = 0
        self._own, self._batch = self._states.initial_tensors(self._initial), None

    def belongs_to(self, batch: Batch) -> bool:
        return self._batch is batch


class Batch:
    """Conversations side by side: `tensors` are [items, conversations, …], `layers` each layer's views of them."""

    def __init__(self, layout: Layout, members: Sequence[RwkvState]) -> None:
        own = [state.tensors for state in members]
        self.members = list(members)
        # A single one is computed where it lies, without any copy.
        self.tensors: Tensors = (
            [tensor.unsqueeze(1) for tensor in own[0]]
            if len(own) == 1
            else [torch.stack(tensors, dim=1) for tensors in zip(*own, strict=True)]
        )
        self.layers = layout.views(self.tensors)
        for state in members:
            state.join(self)


class States:
    """All states of one model, and the batch that was computed last.

    `fingerprint`: of the model. `file`: that of its file, known without loading it. `limit`: tokens a state may have.
    """

    def __init__(self, layout: Layout, fingerprint: str, file: str, limit: int) -> None:
        self.layout = layout
        self.file = file_digest(file)
        self._key = fingerprint.encode()[:64]
        self._limit = limit
        self._batch: Batch | None = None

    def new(self, saved: bytes | None = None, initial: Tensors | None = None) -> RwkvState:
        """An empty state, one that begins with `initial`, or the saved one.

        Raises: BackendError where what was saved is damaged or another model's.
        """
        if saved is None:
            return RwkvState(self, self.initial_tensors(initial), initial)
        rest = memoryview(saved)[HEADER:]
        digest, body = bytes(rest[:_DIGEST_SIZE]), rest[_DIGEST_SIZE:]
        if not saved.startswith(_MAGIC) or len(body) != 8 + self.layout.nbytes or self.digest(body) != digest:
            raise BackendError(
                "a saved state is damaged or belongs to another model: leave it out, and the prompt is read again"
            )
        length = int.from_bytes(body[:8], "little")
        if length > self._limit:
            raise BackendError(
                f"a saved state has {length} tokens, more than context_length: {self._limit}; raise it, or leave the "
                f"state out"
            )
        return RwkvState(self, self._tensors(body[8:]), initial, length)

    def initial_tensors(self, initial: Tensors | None) -> Tensors:
        """What a conversation holds before its first token."""
        return self.layout.empty() if initial is None else [tensor.clone() for tensor in initial]

    def copy_of(self, tensors: Tensors, initial: Tensors | None, length: int) -> RwkvState:
        """A state of `length` tokens that holds copies of `tensors`."""
        return RwkvState(self, [tensor.clone() for tensor in tensors], initial, length)

    def batch_of(self, states: Sequence[RwkvState]) -> Batch:
        """A batch of exactly these states, in this order; the last one again where it is the same."""
        batch = self._batch
        if batch is not None and batch.members == list(states) and all(state.belongs_to(batch) for state in states):
            return batch
        self.split()
        self._batch = Batch(self.layout, states)
        return self._batch

    def split(self) -> None:
        """End the batch: each state takes its own tensors out of it."""
        if self._batch is not None:
            for state in self._batch.members:
                if state.belongs_to(self._batch):
                    state.leave()
            self._batch = None

    def discard(self) -> None:
        """End the batch of a step that failed half way: its tensors are of no use, and each state begins anew."""
        if self._batch is not None:
            for state in self._batch.members:
                if state.belongs_to(self._batch):
                    state.reset()
            self._batch = None

    def digest(self, body: bytes | memoryview) -> bytes:
        """A checksum of `body` that only the same model gives."""
        return blake2b(body, digest_size=_DIGEST_SIZE, key=self._key).digest()

    def _tensors(self, body: memoryview) -> Tensors:
        tensors, at = [], 0
        for shape, device in zip(self.layout.shapes, self.layout.devices, strict=True):
            count = int(np.prod(shape))
            values = np.frombuffer(body, "<f4", count, offset=at).astype(np.float32).reshape(shape)
            tensors.append(torch.from_numpy(values).to(device))
            at += 4 * count
        return tensors


def file_digest(fingerprint: str) -> bytes:
    """What identifies a model's file in the header of a saved state."""
    return blake2b(fingerprint.encode(), digest_size=_DIGEST_SIZE).digest()


def belongs_to(saved: bytes, fingerprint: str) -> bool:
    """Whether a saved state, of which the first HEADER bytes will do, is one of the file with that fingerprint."""
    return saved[:HEADER] == _MAGIC + file_digest(fingerprint)


def _bytes(tensor: Any) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().numpy().astype("<f4").tobytes())
