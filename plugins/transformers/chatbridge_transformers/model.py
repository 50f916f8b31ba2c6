"""A causal language model: many conversations' tokens in, one sampled token each out.

Knows rows, adapters and samplers; knows no file, no text and no scheduling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chatbridge import BackendError, DiskCache, InvalidRequest, LogitsSampler, ModelInfo, Row, Sampling, check_rows
from chatbridge_transformers.alone import OwnState
from chatbridge_transformers.applying import Adapters
from chatbridge_transformers.state import KvStates
from chatbridge_transformers.vocabulary import TransformersTokenizer
from chatbridge_transformers.ways import Chosen, advance, new_state


class TransformersModel:
    """A `LocalModel`; see `backend.load`."""

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: TransformersTokenizer,
        chosen: Chosen,
        states: KvStates,
        adapters: Adapters,
        disk_cache: DiskCache | None = None,
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self.disk_cache = disk_cache
        self._chosen: Chosen | None = chosen
        self._states = states
        self._adapters = adapters

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> Any:
        """An empty state, or the saved one. Raises BackendError where that is damaged or another model's."""
        chosen = self._open()
        digest = self.info.adapters.get(adapter, "")
        if saved is None or chosen.batched:
            return (
                self._states.new(saved, adapter, digest)
                if chosen.batched
                else new_state(chosen, self._states, adapter, digest)
            )
        state = OwnState(adapter, can_trim=chosen.can_trim)
        ids = OwnState.saved_ids(saved)
        if len(ids) > self.info.context_length or any(token >= self.info.vocab_size for token in ids):
            raise BackendError("a saved state belongs to another model: leave it out, and the prompt is read again")
        if ids:
            self.step([Row(state, ids, None)])
        return state

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> LogitsSampler:
        if unknown := [token for token in sampling.logit_bias if not 0 <= token < self.info.vocab_size]:
            raise InvalidRequest(f"logit_bias: {unknown[0]} is outside the vocabulary of {self.info.vocab_size} ids")
        return LogitsSampler(sampling, prompt, generated)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        """See `LocalModel.step`. Raises ValueError for what can't be asked."""
        self._open()
        check_rows(rows, self.info)
        states: list[Any] = [row.state for row in rows]
        sampled: list[list[int]] = [[] for _ in rows]
        scores: dict[int, NDArray[np.float32]] = {}
        for adapter in self._adapters.in_order([state.adapter for state in states]):
            own = [number for number, state in enumerate(states) if state.adapter == adapter]
            wanted = [number for number in own if rows[number].sampler is not None]
            logits = self._compute(
                adapter, [(states[n], list(rows[n].tokens)) for n in own], [own.index(n) for n in wanted]
            )
            scores |= zip(wanted, logits, strict=True)
        # Only now: a step that fails for one adapter's conversations has to leave the others' states as they were.
        for row, state in zip(rows, states, strict=True):
            advance(state, len(row.tokens))
        for number, logits in scores.items():
            sampler = rows[number].sampler
            assert isinstance(sampler, LogitsSampler)
            sampled[number] = [sampler.sample(logits)]
        return sampled

    def logits(self, state: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Consume `tokens` and return the logits after each, [tokens, vocabulary]; for comparing engines."""
        self._open()
        check_rows([Row(state, tokens, None)], self.info)
        found = self._compute(state.adapter, [(state, list(tokens))], [0], every=True)
        advance(state, len(tokens))
        return found

    def close(self) -> None:
        if self._chosen is not None:
            self._chosen.way.close()
            self._chosen = None
            self._adapters.close()

    def _compute(
        self, adapter: str, rows: Sequence[tuple[Any, list[int]]], wanted: Sequence[int], *, every: bool = False
    ) -> NDArray[np.float32]:
        with torch.inference_mode():
            self._adapters.use(adapter)
            logits = self._open().way.forward(rows, wanted, every=every)
            found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found

    def _open(self) -> Chosen:
        if self._chosen is None:
            raise ValueError("the model was closed")
        return self._chosen
