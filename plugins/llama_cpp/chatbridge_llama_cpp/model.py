"""A model in llama.cpp: many conversations' tokens in, one sampled token each out.

Knows rows, guesses and samplers; knows no scheduling, no file and no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatbridge import DiskCache, ModelInfo, Row, Sampling, check_rows
from chatbridge_llama_cpp.adapters import Adapters
from chatbridge_llama_cpp.decoder import Decoder
from chatbridge_llama_cpp.draft import Draft
from chatbridge_llama_cpp.sampler import Chain, Samplers
from chatbridge_llama_cpp.state import LlamaState
from chatbridge_llama_cpp.tokenizer import LlamaTokenizer


@dataclass(slots=True)
class _PendingRow:
    """One row on its way through the batches of a step. `index`: which of the step's rows it is.

    `batched`: how many of its tokens were put into batches so far. `output`: where in the batch the logits after its
    last token are, once that is in and a token is to be sampled; the tokens of `guess` follow it in the batch.
    """

    row: Row
    state: LlamaState
    index: int
    batched: int = 0
    output: int | None = None
    guess: Sequence[int] = ()

    @property
    def remaining(self) -> int:
        return len(self.row.tokens) - self.batched


class LlamaModel:
    """A `LocalModel`. `draft`: the small model that guesses next tokens, if there is one; `free`: frees all memory."""

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: LlamaTokenizer,
        decoder: Decoder,
        samplers: Samplers,
        adapters: Adapters,
        free: Callable[[], None],
        *,
        draft: Draft | None = None,
        disk_cache: DiskCache | None = None,
    ) -> None:
        self.info = info
        self.disk_cache = disk_cache
        self.tokenizer = tokenizer
        self._decoder = decoder
        self._samplers = samplers
        self._adapters = adapters
        self._draft = draft
        self._free: Callable[[], None] | None = free

    @property
    def moves(self) -> int:
        """How many times a conversation was moved to another sequence, to lie beside others."""
        return self._decoder.sequences.moves

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> LlamaState:
        """An empty state, or the saved one. Raises BackendError where that is damaged or another model's."""
        state = self._decoder.sequences.new(saved, adapter)
        if self._draft is not None:
            state.draft_state = self._draft.new_state()
        return state

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> Chain:
        return self._samplers.new(sampling, prompt, generated)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        """See `LocalModel.step`. Raises BackendError where llama.cpp fails, ValueError for what can't be asked."""
        pending_rows = self._pending_rows(rows)
        if self._draft is not None:
            self._guess(self._draft, pending_rows)
        sampled: list[list[int]] = [[] for _ in rows]
        for adapter in self._adapters.in_order(pending.state.adapter for pending in pending_rows):
            self._adapters.use(adapter)
            waiting = [pending for pending in pending_rows if pending.state.adapter == adapter]
            while waiting:
                batched = self._fill(waiting)
                self._decoder.run([pending.state for pending in pending_rows])
                for pending in batched:
                    if pending.output is not None:
                        sampled[pending.index] = self._sample(pending, pending.output)
                waiting = [pending for pending in waiting if pending.remaining]
        return sampled

    def logits(self, state: LlamaState, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Consume `tokens` and return the logits after each, [tokens, vocabulary]; for comparing engines."""
        self._adapters.use(state.adapter)
        logits = np.empty((len(tokens), self.info.vocab_size), np.float32)
        batch = self._decoder.batch
        for start in range(0, len(tokens), batch.max_outputs):
            chunk = tokens[start : start + batch.max_outputs]
            self._pending_rows([Row(state, chunk, None)])
            batch.clear()
            batch.add(state, chunk, wanted=len(chunk))
            self._decoder.run([state])
            for i in range(len(chunk)):
                logits[start + i] = self._decoder.logits(i)
        return logits

    def close(self) -> None:
        if self._free is not None:
            self._free()
            self._free = None

    def _pending_rows(self, rows: Sequence[Row]) -> list[_PendingRow]:
        """The rows, each with a sequence, in the order of these: llama.cpp computes neighbours together."""
        if self._free is None:
            raise ValueError("the model was closed")
        check_rows(rows, self.info)
        pending_rows = []
        for index, row in enumerate(rows):
            assert isinstance(row.state, LlamaState)
            pending_rows.append(_PendingRow(row, row.state, index))
        self._decoder.sequences.assign([pending.state for pending in pending_rows])
        return sorted(pending_rows, key=lambda pending: pending.state.seq_id or 0)

    def _guess(self, draft: Draft, pending_rows: Sequence[_PendingRow]) -> None:
        """Let the small model read the same tokens, and guess where a token is to be sampled."""
        large_rows = [(pending.state, pending.row.tokens, pending.row.sampler is not None) for pending in pending_rows]
        for pending, guess in zip(pending_rows, draft.guess(large_rows, self.info.context_length), strict=True):
            pending.guess = guess

    def _fill(self, pending_rows: Sequence[_PendingRow]) -> list[_PendingRow]:
        """Put as many tokens of the rows into the batch as it takes, at least one of each."""
        batch = self._decoder.batch
        batch.clear()
        # One token of each is always in, so that a long prompt holds up nobody who is answering.
        room = batch.size - len(pending_rows)
        for pending in pending_rows:
            tokens = pending.row.tokens[pending.batched : pending.batched + 1 + room]
            room -= len(tokens) - 1
            pending.batched += len(tokens)
            if pending.remaining or pending.row.sampler is None:
                batch.add(pending.state, tokens)
                continue
            max_guess = min(room, self.info.context_length - pending.state.length - len(tokens))
            pending.guess = (
                pending.guess[:max_guess] if self._draft is not None else pending.row.sampler.guess(max_guess)
            )
            room -= len(pending.guess)
            pending.output = batch.count + len(tokens) - 1
            batch.add(pending.state, [*tokens, *pending.guess], wanted=1 + len(pending.guess))
        return list(pending_rows)

    def _sample(self, pending: _PendingRow, output: int) -> list[int]:
        """The tokens that come next: one, and one more for each guess that was right. Wrong guesses leave the state."""
        sampler: Chain = pending.row.sampler  # type: ignore[assignment]
        decoder = self._decoder
        sampled = [sampler.sample(decoder.context, output, decoder.logits(output))]
        for at, guessed in enumerate(pending.guess, output + 1):
            if sampled[-1] != guessed:
                break
            sampled.append(sampler.sample(decoder.context, at, decoder.logits(at)))
        pending.state.trim(pending.state.length - len(pending.guess) + len(sampled) - 1)
        return sampled
