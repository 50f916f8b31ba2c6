"""Computes the tokens of many sequences in one call of llama.cpp. Knows a context and its batch; samples nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import BackendError
from chatbridge_llama_cpp.native import lib
from chatbridge_llama_cpp.state import LlamaState, Sequences

_NO_CELLS = 1  # what llama_decode returns where the context has too few free cells


class Decoder:
    """One context. `vocab_size`: ids of its vocabulary; `max_outputs`: tokens of a batch whose logits can be had."""

    def __init__(self, context: Any, sequences: Sequences, vocab_size: int, max_outputs: int) -> None:
        self.context = context
        self.sequences = sequences
        self.batch = Batch(lib.llama_n_batch(context), max_outputs)
        self._row: Any = ctypes.c_float * vocab_size
        self._memory = lib.llama_get_memory(context)

    def run(self, states: Sequence[LlamaState]) -> None:
        """Compute the batch. Where it needs cells, other states than `states` are swapped out.

        Raises BackendError where there are still too few, or where llama.cpp fails.
        """
        while (result := lib.llama_decode(self.context, self.batch.native)) == _NO_CELLS:
            if not self.sequences.evict(states):
                break
        if result:
            for state, _ in self.batch.parts:  # a part of the batch may have been computed
                lib.llama_memory_seq_rm(self._memory, state.seq_id, state.length, -1)
            raise BackendError(
                "the context is full: raise total_context, or lower context_length"
                if result == _NO_CELLS
                else f"llama.cpp failed to compute a step (llama_decode returned {result})"
            )
        for state, tokens in self.batch.parts:
            state.ids.extend(tokens)

    def logits(self, output: int) -> NDArray[np.float32]:
        """The logits after the batch's token at index `output`: [vocabulary], valid until the next `run`."""
        pointer = lib.llama_get_logits_ith(self.context, output)
        # A tenth of what np.ctypeslib.as_array takes, and this is asked for each token.
        return np.frombuffer(self._row.from_address(ctypes.addressof(pointer.contents)), np.float32)


class Batch:
    """A `llama_batch` over arrays of ours, filled anew for each call.

    `size`: tokens that it takes; `max_outputs`: of these, tokens whose logits can be had; `count`: tokens in it now.
    """

    def __init__(self, size: int, max_outputs: int) -> None:
        self.size = size
        self.max_outputs = max_outputs
        self.count = 0
        self.parts: list[tuple[LlamaState, Sequence[int]]] = []
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._seq_counts = np.ones(size, np.int32)
        self._seq_ids = np.zeros(size, np.int32)
        self._seq_id_pointers = (self._seq_ids.ctypes.data + 4 * np.arange(size)).astype(np.uintp)
        self._wanted = np.zeros(size, np.int8)
        self.native = lib.llama_batch()
        pairs: dict[str, NDArray[Any]] = {
            "token": self._tokens,
            "pos": self._positions,
            "n_seq_id": self._seq_counts,
            "seq_id": self._seq_id_pointers,
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
        assert state.seq_id is not None, "a state that has no sequence"
        start, end = self.count, self.count + len(tokens)
        self._tokens[start:end] = tokens
        self._positions[start:end] = np.arange(state.length, state.length + len(tokens))
        self._seq_ids[start:end] = state.seq_id
        self._wanted[start:end] = False
        self._wanted[end - wanted : end] = True
        self.parts.append((state, tokens))
        self.count = self.native.n_tokens = end
