"""A model in llama.cpp: many conversations' tokens in, one sampled token each out.

Knows batches, sequences and samplers; knows no scheduling, no file and no text.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import BackendError, ModelInfo, Row, Sampling
from chatbridge_llama_cpp.native import lib
from chatbridge_llama_cpp.sampler import Chain, Samplers
from chatbridge_llama_cpp.state import LlamaState, Seats
from chatbridge_llama_cpp.tokenizer import LlamaTokenizer

_FULL = 1  # what llama_decode returns where the cells don't suffice


@dataclass(slots=True)
class _Share:
    """One row on its way through the batches of a step. `at`: how many of its tokens were taken."""

    row: Row
    state: LlamaState
    number: int
    at: int = 0

    @property
    def left(self) -> int:
        return len(self.row.tokens) - self.at


class LlamaModel:
    """A `LocalModel`; see `load_model`. `outputs`: the most tokens of a batch whose logits can be had."""

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: LlamaTokenizer,
        seats: Seats,
        samplers: Samplers,
        context: Any,
        outputs: int,
        free: Callable[[], None],
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self._seats = seats
        self._samplers = samplers
        self._context = context
        self._free: Callable[[], None] | None = free
        self._batch = Batch(lib.llama_n_batch(context), outputs)

    def new_state(self, saved: bytes | None = None) -> LlamaState:
        """An empty state, or the saved one. Raises BackendError where that is damaged or another model's."""
        return self._seats.new(saved)

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> Chain:
        return self._samplers.new(sampling, prompt, generated)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        """See `LocalModel.step`. Raises BackendError where llama.cpp fails, ValueError for what can't be asked."""
        shares = self._shares(rows)
        sampled: list[list[int]] = [[] for _ in rows]
        left = shares
        while left:
            wanted = self._fill(left)
            self._decode(shares)
            for number, output in wanted:
                sampled[number] = [rows[number].sampler.sample(self._context, output)]  # type: ignore[union-attr]
            left = [share for share in left if share.left]
        return sampled

    def logits(self, state: LlamaState, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Consume `tokens` and return the logits after each, [tokens, vocabulary]; for comparing engines."""
        found = np.empty((len(tokens), self.info.vocab_size), np.float32)
        for start in range(0, len(tokens), self._batch.outputs):
            part = tokens[start : start + self._batch.outputs]
            (share,) = self._shares([Row(state, part, None)])
            self._batch.clear()
            self._batch.add(share, len(part), every=True)
            self._decode([share])
            for i in range(len(part)):
                pointer = lib.llama_get_logits_ith(self._context, i)
                found[start + i] = np.ctypeslib.as_array(pointer, (self.info.vocab_size,))
        return found

    def close(self) -> None:
        if self._free is not None:
            self._free()
            self._free = None

    def _shares(self, rows: Sequence[Row]) -> list[_Share]:
        """The rows with a sequence each, in the order of these: llama.cpp computes those together that follow."""
        if self._free is None:
            raise ValueError("the model was closed")
        shares = []
        for number, row in enumerate(rows):
            assert isinstance(row.state, LlamaState)
            if not row.tokens or row.state.length + len(row.tokens) > self.info.context_length:
                raise ValueError(
                    f"a row has {len(row.tokens)} tokens after {row.state.length}; it should have at least one, and all "
                    f"must fit the context of {self.info.context_length}"
                )
            if min(row.tokens) < 0 or max(row.tokens) >= self.info.vocab_size:
                raise ValueError(f"an id is outside the vocabulary of {self.info.vocab_size}")
            shares.append(_Share(row, row.state, number))
        self._seats.seat([share.state for share in shares])
        return sorted(shares, key=lambda share: share.state.seat or 0)

    def _fill(self, shares: Sequence[_Share]) -> list[tuple[int, int]]:
        """Put as much of the rows into the batch as it takes; rows that end in it, with their place in the batch."""
        batch = self._batch
        batch.clear()
        wanted = []
        # Those that are answering come in whole before prompts get what is left.
        room = batch.size - len(shares)
        for share in shares:
            count = min(share.left, 1 + max(0, room))
            room -= count - 1
            if batch.full:
                break
            batch.add(share, count)
            if not share.left and share.row.sampler is not None:
                wanted.append((share.number, batch.count - 1))
        return wanted

    def _decode(self, shares: Sequence[_Share]) -> None:
        states = [share.state for share in shares]
        while (result := lib.llama_decode(self._context, self._batch.native)) == _FULL:
            if not self._seats.make_room(states):
                break
        if result:
            for state, length, _ in self._batch.parts:  # what was computed of it all the same
                lib.llama_memory_seq_rm(lib.llama_get_memory(self._context), state.seat, length, -1)
            raise BackendError(
                "the context is full: raise total_context, or lower context_length"
                if result == _FULL
                else f"llama.cpp failed to compute a step (llama_decode returned {result})"
            )
        for state, length, count in self._batch.parts:
            state.length = length + count


class Batch:
    """A `llama_batch` over arrays of ours, filled anew for each call. `count`: tokens in it."""

    def __init__(self, size: int, outputs: int) -> None:
        self.size = size
        self.outputs = outputs
        self.count = 0
        self.parts: list[tuple[LlamaState, int, int]] = []
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._numbers = np.ones(size, np.int32)
        self._sequences = np.zeros(size, np.int32)
        self._pointers = (self._sequences.ctypes.data + 4 * np.arange(size)).astype(np.uintp)
        self._wanted = np.zeros(size, np.int8)
        self.native = lib.llama_batch()
        pairs = {
            "token": self._tokens,
            "pos": self._positions,
            "n_seq_id": self._numbers,
            "seq_id": self._pointers,
            "logits": self._wanted,
        }
        for name, array in pairs.items():
            kind = type(getattr(self.native, name))
            setattr(self.native, name, ctypes.cast(array.ctypes.data, kind))

    @property
    def full(self) -> bool:
        return self.count >= self.size

    def clear(self) -> None:
        self.count = self.native.n_tokens = 0
        self.parts.clear()

    def add(self, share: _Share, count: int, *, every: bool = False) -> None:
        """Append the next `count` tokens of a row; the last one's logits are wanted, where the row ends, or all."""
        state, start, end = share.state, self.count, self.count + count
        self._tokens[start:end] = share.row.tokens[share.at : share.at + count]
        self._positions[start:end] = np.arange(state.length, state.length + count)
        self._sequences[start:end] = state.seat
        share.at += count
        self._wanted[start:end] = every
        if not share.left and share.row.sampler is not None:
            self._wanted[end - 1] = True
        self.parts.append((state, state.length, count))
        self.count = self.native.n_tokens = end
