"""Guesses what a model will say by letting a small one with the same vocabulary go ahead: speculative decoding.

Leviathan et al. 2022 (arXiv 2211.17192), greedily on the small side. Every guess is checked by the large model, so that
it changes no answer, only how many steps it takes. Knows the small model's context; samples and checks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from chatbridge_llama_cpp.decoder import Decoder
from chatbridge_llama_cpp.state import LlamaState

Asked = tuple[LlamaState, Sequence[int], bool]
"""A conversation's state in the large model, what it consumes next, and whether a token is wanted after that."""


@dataclass(slots=True)
class _Runner:
    """One conversation in the small model. `left`: ids that it has to read; `most`: how many may be guessed."""

    state: LlamaState
    left: Sequence[int]
    most: int
    guess: list[int] = field(default_factory=list)
    output: int | None = None


class Draft:
    """A small model. `tokens`: the most that is guessed at once; `least`: the probability below which it stops.

    `size`: ids that both models have; an id beyond them is no guess.
    """

    def __init__(self, decoder: Decoder, size: int, tokens: int, least: float) -> None:
        self._decoder = decoder
        self._size = size
        self._tokens = tokens
        self._least = least

    def new_state(self) -> LlamaState:
        """For a conversation that the small model has read nothing of."""
        return self._decoder.seats.new(None)

    def guess(self, asked: Sequence[Asked], context_length: int) -> list[list[int]]:
        """What may come after each, by the small model, which reads along. It raises what `Decoder.run` raises.

        One batch is read at a time: a conversation that it is behind with, after a restart, gets no guesses until it
        has caught up, and holds up nobody.
        """
        runners = [self._runner(*one, context_length) for one in asked]
        self._decoder.seats.seat([runner.state for runner in runners])
        in_order = sorted(runners, key=lambda runner: runner.state.seat or 0)
        self._read([runner for runner in in_order if runner.left])
        while going := [runner for runner in in_order if runner.output is not None]:
            self._go_ahead(going)
        return [runner.guess for runner in runners]

    def _runner(self, large: LlamaState, tokens: Sequence[int], wanted: bool, context_length: int) -> _Runner:
        assert large.shadow is not None
        small, end = large.shadow, large.length + len(tokens)
        if small.length > large.length:  # it guessed wrong, or the large model was trimmed or failed since
            small.trim(large.length)
        left = [*large.ids[small.length :], *tokens]
        known = next((i for i, token in enumerate(left) if token >= self._size), len(left))
        most = min(self._tokens, context_length - end) if wanted and known == len(left) else 0
        return _Runner(small, left[:known], most)

    def _read(self, runners: Sequence[_Runner]) -> None:
        batch = self._decoder.batch
        batch.clear()
        room = batch.size - len(runners)
        for runner in runners:
            tokens = runner.left[: 1 + room]
            room -= len(tokens) - 1
            if runner.most > 0 and len(tokens) == len(runner.left):
                runner.output = batch.count + len(tokens) - 1
            batch.add(runner.state, tokens, wanted=int(runner.output is not None))
        if batch.count:
            self._decoder.run([runner.state for runner in runners])

    def _go_ahead(self, runners: Sequence[_Runner]) -> None:
        """Take the likeliest token of each, if it is likely enough, and read it."""
        on = []
        for runner in runners:
            token, runner.output = self._likely(runner.output or 0), None
            if token is not None:
                runner.guess.append(token)
                if len(runner.guess) < runner.most:
                    on.append(runner)
        batch = self._decoder.batch
        batch.clear()
        for runner in on:
            runner.output = batch.count
            batch.add(runner.state, runner.guess[-1:], wanted=1)
        if on:
            self._decoder.run([runner.state for runner in on])

    def _likely(self, output: int) -> int | None:
        logits = self._decoder.logits(output)
        best = int(logits.argmax())
        share = 1 / float(np.exp(logits - logits[best]).sum())
        return best if best < self._size and share >= self._least else None
