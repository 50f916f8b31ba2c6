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

LargeRow = tuple[LlamaState, Sequence[int], bool]
"""A conversation's state in the large model, the tokens that it reads next, and whether one is sampled after them."""


@dataclass(slots=True)
class _Row:
    """One conversation in the small model.

    `unread`: tokens that it has not read yet; `max_guess`: how many to guess. `output`: where in the batch
    the logits are that the next guess is taken from, if there is a next one.
    """

    state: LlamaState
    unread: Sequence[int]
    max_guess: int
    guess: list[int] = field(default_factory=list)
    output: int | None = None


class Draft:
    """A small model. `max_tokens`: of one guess; `min_probability`: of a token, where a less likely one ends the guess.

    `vocab_size`: ids that both models have; an id beyond them is never guessed.
    """

    def __init__(self, decoder: Decoder, vocab_size: int, max_tokens: int, min_probability: float) -> None:
        self._decoder = decoder
        self._vocab_size = vocab_size
        self._max_tokens = max_tokens
        self._min_probability = min_probability

    def new_state(self) -> LlamaState:
        """An empty state in the small model."""
        return self._decoder.sequences.new(None)

    def guess(self, large_rows: Sequence[LargeRow], context_length: int) -> list[list[int]]:
        """For each row the tokens that may come after it, or none. Raises what `Decoder.run` raises.

        The small model reads what the large one reads, one batch at a time. After a restart it is behind: then a
        conversation gets no guesses until it has caught up, and nobody has to wait for it.
        """
        rows = [self._row(*large, context_length) for large in large_rows]
        self._decoder.sequences.assign([row.state for row in rows])
        in_order = sorted(rows, key=lambda row: row.state.seq_id or 0)
        self._read([row for row in in_order if row.unread])
        while going := [row for row in in_order if row.output is not None]:
            self._extend(going)
        return [row.guess for row in rows]

    def _row(self, large: LlamaState, tokens: Sequence[int], wanted: bool, context_length: int) -> _Row:
        """The small model's side of a conversation, trimmed to what both have read alike."""
        assert large.draft_state is not None
        small, end = large.draft_state, large.length + len(tokens)
        if small.length > large.length:  # it guessed wrong, or the large model was trimmed or failed since
            small.trim(large.length)
        unread = [*large.ids[small.length :], *tokens]
        known = next((i for i, token in enumerate(unread) if token >= self._vocab_size), len(unread))
        max_guess = min(self._max_tokens, context_length - end) if wanted and known == len(unread) else 0
        return _Row(small, unread[:known], max_guess)

    def _read(self, rows: Sequence[_Row]) -> None:
        """Read one batch of unread tokens, at least one of each row."""
        batch = self._decoder.batch
        batch.clear()
        room = batch.size - len(rows)
        for row in rows:
            tokens = row.unread[: 1 + room]
            room -= len(tokens) - 1
            if row.max_guess > 0 and len(tokens) == len(row.unread):
                row.output = batch.count + len(tokens) - 1
            batch.add(row.state, tokens, wanted=int(row.output is not None))
        if batch.count:
            self._decoder.run([row.state for row in rows])

    def _extend(self, rows: Sequence[_Row]) -> None:
        """Add the likeliest token to each guess, if it is likely enough, and read it."""
        extended = []
        for row in rows:
            token, row.output = self._likeliest(row.output or 0), None
            if token is not None:
                row.guess.append(token)
                if len(row.guess) < row.max_guess:
                    extended.append(row)
        batch = self._decoder.batch
        batch.clear()
        for row in extended:
            row.output = batch.count
            batch.add(row.state, row.guess[-1:], wanted=1)
        if extended:
            self._decoder.run([row.state for row in extended])

    def _likeliest(self, output: int) -> int | None:
        """The likeliest token, or None where it is not likely enough or the large model lacks it."""
        logits = self._decoder.logits(output)
        best = int(logits.argmax())
        probability = 1 / float(np.exp(logits - logits[best]).sum())
        return best if best < self._vocab_size and probability >= self._min_probability else None
