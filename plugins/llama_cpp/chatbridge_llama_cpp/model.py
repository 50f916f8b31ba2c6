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

from chatbridge import BackendError, ModelInfo, Row, Sampling, Shelf
from chatbridge_llama_cpp.adapters import Overlays
from chatbridge_llama_cpp.native import lib
from chatbridge_llama_cpp.sampler import Chain, Samplers
from chatbridge_llama_cpp.state import LlamaState, Seats
from chatbridge_llama_cpp.tokenizer import LlamaTokenizer

_FULL = 1  # what llama_decode returns where the cells don't suffice


@dataclass(slots=True)
class _Share:
    """One row on its way through the batches of a step.

    `at`: how many of its tokens were taken. `output`: where in the batch the logits after the last one are, once it
    was taken and a token is wanted; `guess`: the ids behind it in the batch, which may turn out to come next.
    """

    row: Row
    state: LlamaState
    number: int
    at: int = 0
    output: int | None = None
    guess: Sequence[int] = ()

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
        overlays: Overlays,
        context: Any,
        outputs: int,
        free: Callable[[], None],
        shelf: Shelf | None = None,
    ) -> None:
        self.info = info
        self.shelf = shelf
        self.tokenizer = tokenizer
        self._seats = seats
        self._samplers = samplers
        self._overlays = overlays
        self._context = context
        self._free: Callable[[], None] | None = free
        self._batch = Batch(lib.llama_n_batch(context), outputs)

    @property
    def moves(self) -> int:
        """How many conversations were given another sequence so far, to lie beside others."""
        return self._seats.moves

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> LlamaState:
        """An empty state, or the saved one. Raises BackendError where that is damaged or another model's."""
        return self._seats.new(saved, adapter)

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> Chain:
        return self._samplers.new(sampling, prompt, generated)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        """See `LocalModel.step`. Raises BackendError where llama.cpp fails, ValueError for what can't be asked."""
        shares = self._shares(rows)
        sampled: list[list[int]] = [[] for _ in rows]
        for adapter in self._overlays.in_turn(share.state.adapter for share in shares):
            self._overlays.use(adapter)
            left = [share for share in shares if share.state.adapter == adapter]
            while left:
                batched = self._fill(left)
                self._decode(shares)
                for share in batched:
                    if share.output is not None:
                        sampled[share.number] = self._sample(share, share.output)
                left = [share for share in left if share.left]
        return sampled

    def logits(self, state: LlamaState, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Consume `tokens` and return the logits after each, [tokens, vocabulary]; for comparing engines."""
        self._overlays.use(state.adapter)
        found = np.empty((len(tokens), self.info.vocab_size), np.float32)
        for start in range(0, len(tokens), self._batch.outputs):
            part = tokens[start : start + self._batch.outputs]
            (share,) = self._shares([Row(state, part, None)])
            self._batch.clear()
            self._batch.add(state, part, wanted=len(part))
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
                    f"a row has {len(row.tokens)} tokens after {row.state.length}; it should have at least one, and "
                    f"all must fit the context of {self.info.context_length}"
                )
            if min(row.tokens) < 0 or max(row.tokens) >= self.info.vocab_size:
                raise ValueError(f"an id is outside the vocabulary of {self.info.vocab_size}")
            shares.append(_Share(row, row.state, number))
        self._seats.seat([share.state for share in shares])
        return sorted(shares, key=lambda share: share.state.seat or 0)

    def _fill(self, shares: Sequence[_Share]) -> list[_Share]:
        """Put as much of the rows into the batch as it takes, and return those that have a part in it."""
        batch = self._batch
        batch.clear()
        # One token of each comes in whatever happens, so that long prompts hold up nobody who is answering.
        room = batch.size - len(shares)
        for share in shares:
            tokens = share.row.tokens[share.at : share.at + 1 + room]
            room -= len(tokens) - 1
            share.at += len(tokens)
            if share.left or share.row.sampler is None:
                batch.add(share.state, tokens)
                continue
            end = share.state.length + len(tokens)
            share.guess = share.row.sampler.guess(min(room, self.info.context_length - end))
            room -= len(share.guess)
            share.output = batch.count + len(tokens) - 1
            batch.add(share.state, [*tokens, *share.guess], wanted=1 + len(share.guess))
        return list(shares)

    def _sample(self, share: _Share, output: int) -> list[int]:
        """The tokens that come next: one, and as many more as were guessed rightly."""
        sampler: Chain = share.row.sampler  # type: ignore[assignment]
        sampled = [sampler.sample(self._context, output)]
        for number, guessed in enumerate(share.guess, 1):
            if sampled[-1] != guessed:
                break
            sampled.append(sampler.sample(self._context, output + number))
        share.state.trim(share.state.length - len(share.guess) + len(sampled) - 1)
        return sampled

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
        pairs: dict[str, NDArray[Any]] = {
            "token": self._tokens,
            "pos": self._positions,
            "n_seq_id": self._numbers,
            "seq_id": self._pointers,
            "logits": self._wanted,
        }
        for name, array in pairs.items():
            kind = type(getattr(self.native, name))
            setattr(self.native, name, ctypes.cast(array.ctypes.data, kind))

    def clear(self) -> None:
        self.count = self.native.n_tokens = 0
        self.parts.clear()

    def add(self, state: LlamaState, tokens: Sequence[int], wanted: int = 0) -> None:
        """Append what a state consumes next; the logits after the last `wanted` of these tokens are wanted."""
        assert state.seat is not None, "a state that has no sequence"
        start, end = self.count, self.count + len(tokens)
        self._tokens[start:end] = tokens
        self._positions[start:end] = np.arange(state.length, state.length + len(tokens))
        self._sequences[start:end] = state.seat
        self._wanted[start:end] = False
        self._wanted[end - wanted : end] = True
        self.parts.append((state, state.length, len(tokens)))
        self.count = self.native.n_tokens = end
