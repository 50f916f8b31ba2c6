"""GLM as a `LocalModel`: answers of many conversations together, and long prompts in slices between them.

A prompt is read in both directions, so it can't be cut by tokens; it goes through the model by pieces of layers, for
half a second a step or as long as answering takes, while everybody who is being answered gets a token in each step.
Knows passes and samplers; knows no file and no text.
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

ALIVE_SECONDS = 10.0
"""How long a step may take at most, so that a model which is slow is not taken for one that hangs."""

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
        outs = self._compute(rows)
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

    def _compute(self, rows: Sequence[Row]) -> list[Any]:
        """What came out for the last token of each row; None for those that are left for later."""
        check_rows(rows, self.info)
        parts: list[Part] = []
        for row in rows:
            assert isinstance(row.state, GlmState)
            parts.append((row.state, row.tokens))
        going_on = [(state, tokens) for state, tokens in parts if state.length]
        first = [(state, tokens) for state, tokens in parts if not state.length]
        try:
            with torch.inference_mode():
                begun = self._clock()
                fresh = [part for part in going_on if part[0].reading is None]
                if fresh:
                    self._pass_of(fresh)
                self._advance(going_on, begun + ALIVE_SECONDS)
                now = self._clock()
                self._begin([part for part in first if part[0].reading is None])
                # Where answering is slow, reading may be as slow: else a prompt would never be read.
                self._advance(first, now + max(SLICE_SECONDS, now - begun))
        except BaseException:
            for state, _ in parts:
                state.reading = state.read = None
            raise
        return [self._take(state, tokens) for state, tokens in parts]

    def _advance(self, parts: Sequence[Part], deadline: float) -> None:
        """Go on with the passes of these, first come first served, until they are done or it is time.

        The first goes on by a piece at least.
        """
        for number, (state, _) in enumerate(parts):
            if state.read is not None or (number and self._clock() >= deadline):
                continue
            while state.reading.advance():
                if self._clock() >= deadline:
                    break
            if state.reading.done:
                for at, share in enumerate(state.reading.shares):
                    share.state.read = (state.reading.last(at), share.end - share.start)

    def _take(self, state: GlmState, tokens: Sequence[int]) -> Any:
        """What came out for a state, if it is done with what was on its way."""
        if state.read is None:
            return None
        (out, count), state.read, state.reading = state.read, None, None
        state.length += count
        return out if count == len(tokens) else None

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
