"""GLM as a `LocalModel`: answers of many conversations together, and long prompts in slices between them.

A prompt is read in both directions, so it can't be cut by tokens; it goes through the model by pieces of layers, for
half a second a step, while everybody who is being answered gets a token in each step. Knows passes and samplers; knows
no file and no text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chatbridge import DiskCache, InvalidRequest, ModelInfo, Row, Sampling, check_rows
from chatbridge_glm.model import Glm, Pass
from chatbridge_glm.rotary import mask_position
from chatbridge_glm.sampler import GlmSampler
from chatbridge_glm.state import GlmState, Layout, Prefix
from chatbridge_glm.tokenizer import GlmTokenizer

SLICE_SECONDS = 0.5
"""How long prompts may hold up a step."""

TOGETHER = 256
"""Tokens of short prompts that are read in one pass."""

Part = tuple[GlmState, Sequence[int]]
"""A state, and what it is to consume next."""


class GlmModel:
    """A `LocalModel`; see `backend.load`.

    `prefixes`: P-Tuning prefixes by the name of their adapter; the empty name is for conversations without one.
    `piece`: tokens of a prompt that are computed at a time. `clock` gives seconds.
    """

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: GlmTokenizer,
        model: Glm,
        layout: Layout,
        prefixes: Mapping[str, Prefix],
        piece: int,
        disk_cache: DiskCache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self.disk_cache = disk_cache
        self._model: Glm | None = model
        self._layout = layout
        self._prefixes = prefixes
        self._piece = piece
        self._clock = clock

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> GlmState:
        """An empty state, or the saved one. Raises BackendError where that is damaged or another model's."""
        state = GlmState(self._layout, self._prefixes.get(adapter, ()))
        if saved is not None:
            state.restore(saved)
        return state

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> GlmSampler:
        if unknown := [token for token in sampling.logit_bias if not 0 <= token < self.info.vocab_size]:
            raise InvalidRequest(f"logit_bias: {unknown[0]} is outside the vocabulary of {self.info.vocab_size} ids")
        return GlmSampler(sampling, prompt, generated)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        """See `LocalModel.step`. Raises ValueError for what can't be asked; a step that fails leaves no half states."""
        outs = self._compute(rows, self._clock() + SLICE_SECONDS)
        wanted = [number for number, out in enumerate(outs) if out is not None and rows[number].sampler is not None]
        sampled: list[list[int]] = [[] for _ in rows]
        if wanted:
            scores = self._scores([outs[number] for number in wanted])
            for number, row_scores in zip(wanted, scores, strict=True):
                sampler = rows[number].sampler
                assert isinstance(sampler, GlmSampler)
                sampled[number] = [sampler.sample(row_scores)]
        return sampled

    def logits(self, state: GlmState, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Consume `tokens`, all at once, and return the logits after each, [tokens, vocabulary]; for comparisons."""
        with torch.inference_mode():
            run = self._pass([(state, tokens)])
            while run.advance():
                pass
            state.length += len(tokens)
            return self._scores(list(run.hidden))

    def close(self) -> None:
        self._model = None

    def _compute(self, rows: Sequence[Row], deadline: float) -> list[Any]:
        """What came out for the last token of each row; None for those that are left for later."""
        check_rows(rows, self.info)
        parts: list[Part] = []
        for row in rows:
            assert isinstance(row.state, GlmState)
            parts.append((row.state, row.tokens))
        outs: list[Any] = [None] * len(rows)
        try:
            with torch.inference_mode():
                going_on = [number for number, (state, _) in enumerate(parts) if state.length]
                self._go_on(parts, going_on, outs)
                self._read(parts, [number for number in range(len(rows)) if number not in going_on], outs, deadline)
        except BaseException:
            for state, _ in parts:
                state.reading = state.read = None
            raise
        for (state, tokens), out in zip(parts, outs, strict=True):
            if out is not None:
                state.length += len(tokens)
        return outs

    def _go_on(self, parts: Sequence[Part], numbers: Sequence[int], outs: list[Any]) -> None:
        """Compute rows behind their prompts, all together, to the end."""
        if numbers:
            run = self._pass([parts[number] for number in numbers])
            while run.advance():
                pass
            for at, number in enumerate(numbers):
                outs[number] = run.last(at)

    def _read(self, parts: Sequence[Part], numbers: Sequence[int], outs: list[Any], deadline: float) -> None:
        """Go on with prompts, first come first served, until they are read or it is time; a piece at least."""
        self._begin([parts[number] for number in numbers if parts[number][0].reading is None])
        for number in numbers:
            state = parts[number][0]
            if state.read is None and (number == numbers[0] or self._clock() < deadline):
                while state.reading.advance():
                    if self._clock() >= deadline:
                        break
                if state.reading.done:
                    for at, share in enumerate(state.reading.shares):
                        share.state.read = state.reading.last(at)
            if state.read is not None:
                outs[number], state.read, state.reading = state.read, None, None

    def _begin(self, parts: Sequence[Part]) -> None:
        """Passes for prompts that come for the first time: short ones share one."""
        together: list[Part] = []
        for part in parts:
            if together and sum(len(tokens) for _, tokens in (*together, part)) > TOGETHER:
                self._pass_of(together)
                together = []
            together.append(part)
        if together:
            self._pass_of(together)

    def _pass_of(self, parts: Sequence[Part]) -> None:
        run = self._pass(parts)
        for state, _ in parts:
            state.reading = run

    def _pass(self, parts: Sequence[Part]) -> Pass:
        if self._model is None:
            raise ValueError("the model was closed")
        config = self._model.config
        for state, tokens in parts:
            if not state.length:
                found = list(tokens).index(config.sop)
                state.context, state.mask_at = found, mask_position(config, tokens[:found])
        return Pass(self._model, [state for state, _ in parts], [tokens for _, tokens in parts], self._piece)

    def _scores(self, hidden: Sequence[Any]) -> NDArray[np.float32]:
        assert self._model is not None
        found: NDArray[np.float32] = self._model.logits(torch.stack(hidden)).cpu().numpy()
        return found
