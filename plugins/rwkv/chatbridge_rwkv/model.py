"""An RWKV model: many conversations' tokens in, one sampled token each out.

Knows batches and samplers; knows no file, no text and no scheduling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chatbridge import DiskCache, InvalidRequest, ModelInfo, Row, Sampling, check_rows
from chatbridge_rwkv.loading import Arithmetic
from chatbridge_rwkv.package_model import as_package_state, from_package_state
from chatbridge_rwkv.sampler import Rules, RwkvSampler
from chatbridge_rwkv.state import RwkvState, States, Tensors
from chatbridge_rwkv.tokenizer import RwkvTokenizer


class RwkvModel:
    """A `LocalModel`; see `backend.load`.

    `dtypes`: each layer's type, for states as the package holds them. `initial`: the states that conversations begin
    with, by the name of their adapter; the empty name is for those without one.
    """

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: RwkvTokenizer,
        arithmetic: Arithmetic,
        dtypes: Sequence[Any],
        states: States,
        rules: Rules,
        initial: Mapping[str, Tensors],
        disk_cache: DiskCache | None = None,
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self.disk_cache = disk_cache
        self._arithmetic: Arithmetic | None = arithmetic
        self._dtypes = dtypes
        self._states = states
        self._rules = rules
        self._initial = initial

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> RwkvState:
        """An empty state, or the saved one. Raises BackendError where that is damaged or another model's."""
        return self._states.new(saved, self._initial.get(adapter))

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> RwkvSampler:
        if unknown := [token for token in sampling.logit_bias if not 0 <= token < self.info.vocab_size]:
            raise InvalidRequest(f"logit_bias: {unknown[0]} is outside the vocabulary of {self.info.vocab_size} ids")
        return RwkvSampler(sampling, prompt, generated, self._rules)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        """See `LocalModel.step`. Raises ValueError for what can't be asked; a step that fails leaves no half states."""
        wanted = [number for number, row in enumerate(rows) if row.sampler is not None]
        logits = self._compute(rows, wanted)
        sampled: list[list[int]] = [[] for _ in rows]
        for number, scores in zip(wanted, logits, strict=True):
            sampler = rows[number].sampler
            assert isinstance(sampler, RwkvSampler)
            sampled[number] = [sampler.sample(scores)]
        return sampled

    def logits(self, state: RwkvState, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Consume `tokens` and return the logits after each, [tokens, vocabulary]; for comparing engines."""
        return np.concatenate([self._compute([Row(state, [token], None)], [0]) for token in tokens])

    def exported(self, state: RwkvState) -> list[Any]:
        """The state as the list of tensors that the package's `forward` takes and gives; copies, in main memory."""
        found = as_package_state(self._states.layout, state.tensors, self._dtypes)
        return [tensor.cpu() for tensor in found]

    def imported(self, tensors: Sequence[Any], length: int, adapter: str = "") -> RwkvState:
        """The way back, for a state after `length` tokens. Raises ValueError where the shapes are another model's."""
        held = from_package_state(self._states.layout, tensors)
        return self._states.copy_of(held, self._initial.get(adapter), length)

    def close(self) -> None:
        self._states.split()
        self._arithmetic = None

    def _compute(self, rows: Sequence[Row], wanted: Sequence[int]) -> NDArray[np.float32]:
        if self._arithmetic is None:
            raise ValueError("the model was closed")
        check_rows(rows, self.info)
        states: list[RwkvState] = []
        for row in rows:
            assert isinstance(row.state, RwkvState)
            states.append(row.state)
        with torch.inference_mode():
            batch = self._states.batch_of(states)
            try:
                logits = self._arithmetic.forward(batch, [row.tokens for row in rows], wanted)
                found: NDArray[np.float32] = logits.cpu().numpy()
            except BaseException:
                self._states.discard()
                raise
        for row, state in zip(rows, states, strict=True):
            state.length += len(row.tokens)
        return found
