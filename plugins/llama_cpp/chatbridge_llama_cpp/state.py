"""What llama.cpp remembers of each conversation, and who has one of the context's few sequences.

A state is *seated* while it has a sequence: cells of the KV cache, or a slot of recurrent state. When there are more
states than sequences, idle ones are put away as bytes and come back when they go on. Knows no text and no sampling.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import BackendError
from chatbridge_llama_cpp.native import lib

Bytes = NDArray[np.uint8]

_MAGIC = b"chatbridge-llama-seq-2\n"
_DIGEST = 16
_SEAT = 64
"""Bytes that a seated state counts for: its cells were allocated with the context, and nobody else could have them."""


class LlamaState:
    """A `ModelState`. `seat`: its sequence, or None; then `put_away` holds what its first `held` tokens left.

    `ids`: the tokens that it has consumed; `adapter`: what read them, empty for the model as it is. `shadow`: what a
    smaller model, which guesses for this one, has read of the same conversation.
    """

    __slots__ = ("adapter", "held", "ids", "put_away", "seat", "seats", "shadow")

    def __init__(self, seats: Seats, adapter: str = "", ids: Iterable[int] = ()) -> None:
        self.seats = seats
        self.adapter = adapter
        self.ids = array("i", ids)
        self.seat: int | None = None
        self.put_away: Bytes | None = None
        self.held = 0
        self.shadow: LlamaState | None = None

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        shadow = 0 if self.shadow is None else self.shadow.nbytes
        return _SEAT + (0 if self.put_away is None else self.put_away.nbytes) + shadow

    def fork(self) -> LlamaState:
        return self.seats.fork(self)

    def trim(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"a state of {self.length} tokens can't be trimmed to {length}")
        if self.seat is not None and length < self.length:
            self.seats.cut(self.seat, length)
        del self.ids[length:]

    def save(self) -> bytes:
        body = b"".join((self.length.to_bytes(4, "little"), self.ids.tobytes(), self.held_bytes().tobytes()))
        return b"".join((_MAGIC, self.seats.digest(body, self.adapter), body))

    def release(self) -> None:
        self.seats.leave(self)
        self.put_away = None
        del self.ids[:]
        self.held = 0
        if self.shadow is not None:
            self.shadow.release()

    def held_bytes(self) -> Bytes:
        """What the sequence holds, or held when it was put away."""
        if self.seat is not None:
            return self.seats.read(self.seat)
        return np.empty(0, np.uint8) if self.put_away is None else self.put_away


@dataclass(frozen=True, slots=True)
class Layout:
    """How a context keeps its sequences.

    `count`: how many. `cell_bytes`, `fixed_bytes`: what one token and one sequence take. `pass_bytes`: what reading
    all weights once takes. `apart`: each sequence has a stream of its own, and one call computes only neighbours
    together. `shares`: copying a sequence costs nothing (cells are counted, or copied when they are written).
    """

    count: int
    cell_bytes: int
    fixed_bytes: int
    pass_bytes: int
    apart: bool
    shares: bool


class Seats:
    """The sequences of one context, and who has them."""

    def __init__(self, context: Any, layout: Layout, fingerprint: str, limit: int, marks: Mapping[str, str]) -> None:
        self.layout = layout
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._key = fingerprint.encode()[:64]
        self._marks = marks
        self._limit = limit
        self._seated: dict[int, LlamaState] = {}  # least recently used first
        self._lost = 0
        self.moves = 0
        self.returns = 0

    def new(self, saved: bytes | None, adapter: str = "") -> LlamaState:
        """An empty state, or the saved one. Raises BackendError where that is damaged or another model's."""
        if saved is None:
            return LlamaState(self, adapter)
        rest = memoryview(saved)[len(_MAGIC) :]
        digest, body = bytes(rest[:_DIGEST]), rest[_DIGEST:]
        if not saved.startswith(_MAGIC) or len(body) < 4 or self.digest(body, adapter) != digest:
            raise BackendError(
                "a saved state is damaged or belongs to another model: leave it out, and the prompt is read again"
            )
        length, ids = int.from_bytes(body[:4], "little"), array("i")
        if length > self._limit:
            raise BackendError(
                f"a saved state has {length} tokens, more than context_length: {self._limit}; raise it, or leave the "
                f"state out"
            )
        ids.frombytes(body[4 : 4 + length * ids.itemsize])
        state = LlamaState(self, adapter, ids)
        state.put_away, state.held = np.frombuffer(body[4 + length * ids.itemsize :], np.uint8), -1
        return state

    def seat(self, states: Collection[LlamaState]) -> None:
        """Give each of `states` a sequence, side by side if that is worth it; others may have to be put away."""
        for state in states:
            if state.seat is None:
                self._sit(state, self._best_for(states), states)
            else:
                self._seated[state.seat] = self._seated.pop(state.seat)
        if self.layout.apart:
            self._draw_together(states)

    def make_room(self, states: Collection[LlamaState]) -> bool:
        """Put the least recently used state away that is not one of `states`; False where there is none."""
        for number, idle in self._seated.items():
            if idle not in states:
                self._put_away(number)
                return True
        return False

    def fork(self, state: LlamaState) -> LlamaState:
        copy = LlamaState(self, state.adapter, state.ids)
        copy.shadow = None if state.shadow is None else state.shadow.fork()
        free = self._free()
        if state.seat is not None and self.layout.shares and free:
            lib.llama_memory_seq_cp(self._memory, state.seat, free[0], -1, -1)
            copy.seat = free[0]
            self._seated[free[0]] = copy
        elif state.seat is not None:
            # A copy to another stream would copy all of its cells, used or not, and only with the next step; a
            # state that changes in between would be copied as it is then.
            copy.put_away, copy.held = state.held_bytes(), state.length
        else:
            copy.put_away, copy.held = state.put_away, state.held
        return copy

    def cut(self, number: int, length: int) -> None:
        if not lib.llama_memory_seq_rm(self._memory, number, length, -1):
            raise BackendError("this model's memory can't forget its last tokens")

    def leave(self, state: LlamaState) -> None:
        """Make the state's sequence free."""
        if state.seat is not None:
            lib.llama_memory_seq_rm(self._memory, state.seat, -1, -1)
            del self._seated[state.seat]
            state.seat = None

    def read(self, number: int) -> Bytes:
        """All that a sequence holds."""
        size = lib.llama_state_seq_get_size(self._context, number)
        buffer = np.empty(size, np.uint8)
        if lib.llama_state_seq_get_data(self._context, _pointer(buffer), size, number) != size:
            raise BackendError("llama.cpp could not save a conversation's state")
        return buffer

    def digest(self, body: bytes | memoryview, adapter: str) -> bytes:
        """Stands for the model and the adapter, too."""
        mark = self._marks.get(adapter, "").encode()
        return blake2b(body, digest_size=_DIGEST, key=self._key, salt=mark[: blake2b.SALT_SIZE]).digest()

    def _free(self) -> list[int]:
        return [number for number in range(self.layout.count) if number not in self._seated]

    def _best_for(self, states: Collection[LlamaState]) -> int:
        """The sequence that costs least: nobody to put away, and next to the others that go on now."""
        taken = {state.seat for state in states if state.seat is not None}
        order = {number: age for age, number in enumerate(self._seated)}

        def cost(number: int) -> tuple[int, int]:
            gaps = _gaps([*taken, number]) if self.layout.apart else 0
            idle = self._seated.get(number)
            return gaps * self.layout.pass_bytes + (0 if idle is None else self._weight(idle)), order.get(number, -1)

        candidates = [number for number in range(self.layout.count) if number not in taken]
        if not candidates:
            raise BackendError(f"{len(states)} conversations in one step, and the context has {self.layout.count}")
        return min(candidates, key=cost)

    def _sit(self, state: LlamaState, number: int, states: Collection[LlamaState]) -> None:
        if number in self._seated:
            self._put_away(number)
        if state.put_away is not None and state.put_away.size:
            while not self._write(number, state.put_away):
                if not self.make_room(states):
                    raise BackendError("a conversation's state could not be brought back: the context is too small")
            self.returns += 1
            if state.held != state.length:
                lib.llama_memory_seq_rm(self._memory, number, state.length, -1)
        state.put_away, state.seat = None, number
        self._seated[number] = state

    def _put_away(self, number: int) -> None:
        state = self._seated[number]
        if state.length:
            state.put_away, state.held = self.read(number), state.length
        self.leave(state)

    def _write(self, number: int, data: Bytes) -> bool:
        return bool(lib.llama_state_seq_set_data(self._context, _pointer(data), data.size, number))

    def _weight(self, state: LlamaState) -> int:
        """Bytes to copy for putting a state elsewhere."""
        return self.layout.fixed_bytes + state.length * self.layout.cell_bytes if state.length else 0

    def _draw_together(self, states: Collection[LlamaState]) -> None:
        """Move states side by side once the gaps between them have cost as much as the moving.

        llama.cpp computes sequences together whose numbers follow one another; each gap costs a pass over all weights
        in every step. Waiting until the loss equals the price never costs more than twice the best that could be done.
        """
        held = {state.seat for state in states}
        gaps = _gaps([number for number in held if number is not None])
        if not gaps:
            self._lost = 0
            return
        self._lost += gaps * self.layout.pass_bytes
        windows = [range(a, a + len(held)) for a in range(self.layout.count - len(held) + 1)]
        price, wanted = min(((self._price(window, held), window) for window in windows), key=itemgetter(0))
        if self._lost < price:
            return
        self._lost = 0
        empty = [number for number in wanted if number not in held]
        for number, target in zip([n for n in held if n is not None and n not in wanted], empty, strict=True):
            self._swap(number, target)

    def _price(self, window: range, held: Collection[int | None]) -> int:
        outside = (self._seated[number] for number in held if number is not None and number not in window)
        inside = (self._seated[n] for n in window if n in self._seated and n not in held)
        return 2 * sum(map(self._weight, (*outside, *inside)))

    def _swap(self, number: int, target: int) -> None:
        pairs = [(number, target), (target, number)]
        movers = [(self._seated.pop(n), other) for n, other in pairs if n in self._seated]
        data = [self.read(n) for n in (number, target)][: len(movers)]
        for n in (number, target):
            lib.llama_memory_seq_rm(self._memory, n, -1, -1)
        for (state, place), held in zip(movers, data, strict=True):
            if state.length and not self._write(place, held):
                raise BackendError("a conversation's state could not be moved")
            state.seat = place
            self._seated[place] = state
            self.moves += 1


def _gaps(numbers: Sequence[int]) -> int:
    """How many times the next number does not follow, in order."""
    ordered = sorted(numbers)
    return sum(b != a + 1 for a, b in pairwise(ordered))


def _pointer(buffer: Bytes) -> Any:
    return buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
