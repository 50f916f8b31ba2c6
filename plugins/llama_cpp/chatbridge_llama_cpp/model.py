"""A model in llama.cpp: many conversations' tokens in, one sampled token each out.

Knows rows, guesses and samplers; knows no scheduling, no file and no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatbridge import DiskCache, ModelInfo, Row, Sampling, check_rows
from chatbridge_llama_cpp.adapters import Overlays
from chatbridge_llama_cpp.decoder import Decoder
from chatbridge_llama_cpp.draft import Draft
from chatbridge_llama_cpp.sampler import Chain, Samplers
from chatbridge_llama_cpp.state import LlamaState
from chatbridge_llama_cpp.tokenizer import LlamaTokenizer


@dataclass(slots=True)
class _Share:
    """One row on its way through the batches of a step.

    `at`: how many of its tokens were taken. `output`: where in the batch the logits after the last one are, once it
    was taken and a token is wanted; `guess`: ids that may turn out to come next, in the batch behind it.
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
    """A `LocalModel`. `draft`: what guesses the next tokens besides the samplers; `free`: gives everything back."""

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: LlamaTokenizer,
        decoder: Decoder,
        samplers: Samplers,
        overlays: Overlays,
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
        self._overlays = overlays
        self._draft = draft
        self._free: Callable[[], None] | None = free

    @property
    def moves(self) -> int:
        """How many conversations were given another sequence so far, to lie beside others."""
        return self._decoder.seats.moves

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> LlamaState:
        """An empty state, or the saved one. Raises BackendError where that is damaged or another model's."""
        state = self._decoder.seats.new(saved, adapter)
        if self._draft is not None:
            state.shadow = self._draft.new_state()
        return state

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> Chain:
        return self._samplers.new(sampling, prompt, generated)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        """See `LocalModel.step`. Raises BackendError where llama.cpp fails, ValueError for what can't be asked."""
        shares = self._shares(rows)
        if self._draft is not None:
            self._guess(self._draft, shares)
        sampled: list[list[int]] = [[] for _ in rows]
        for adapter in self._overlays.in_turn(share.state.adapter for share in shares):
            self._overlays.use(adapter)
            left = [share for share in shares if share.state.adapter == adapter]
            while left:
                batched = self._fill(left)
                self._decoder.run([share.state for share in shares])
                for share in batched:
                    if share.output is not None:
                        sampled[share.number] = self._sample(share, share.output)
                left = [share for share in left if share.left]
        return sampled

    def logits(self, state: LlamaState, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Consume `tokens` and return the logits after each, [tokens, vocabulary]; for comparing engines."""
        self._overlays.use(state.adapter)
        found = np.empty((len(tokens), self.info.vocab_size), np.float32)
        batch = self._decoder.batch
        for start in range(0, len(tokens), batch.outputs):
            part = tokens[start : start + batch.outputs]
            self._shares([Row(state, part, None)])
            batch.clear()
            batch.add(state, part, wanted=len(part))
            self._decoder.run([state])
            for i in range(len(part)):
                found[start + i] = self._decoder.logits(i)
        return found

    def close(self) -> None:
        if self._free is not None:
            self._free()
            self._free = None

    def _shares(self, rows: Sequence[Row]) -> list[_Share]:
        """The rows with a sequence each, in the order of these: llama.cpp computes those together that follow."""
        if self._free is None:
            raise ValueError("the model was closed")
        check_rows(rows, self.info)
        shares = []
        for number, row in enumerate(rows):
            assert isinstance(row.state, LlamaState)
            shares.append(_Share(row, row.state, number))
        self._decoder.seats.seat([share.state for share in shares])
        return sorted(shares, key=lambda share: share.state.seat or 0)

    def _guess(self, draft: Draft, shares: Sequence[_Share]) -> None:
        """Let the smaller model read along, and guess where a token is wanted."""
        asked = [(share.state, share.row.tokens, share.row.sampler is not None) for share in shares]
        for share, guess in zip(shares, draft.guess(asked, self.info.context_length), strict=True):
            share.guess = guess

    def _fill(self, shares: Sequence[_Share]) -> list[_Share]:
        """Put as much of the rows into the batch as it takes, and return those that have a part in it."""
        batch = self._decoder.batch
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
            most = min(room, self.info.context_length - share.state.length - len(tokens))
            share.guess = share.guess[:most] if self._draft is not None else share.row.sampler.guess(most)
            room -= len(share.guess)
            share.output = batch.count + len(tokens) - 1
            batch.add(share.state, [*tokens, *share.guess], wanted=1 + len(share.guess))
        return list(shares)

    def _sample(self, share: _Share, output: int) -> list[int]:
        """The tokens that come next: one, and as many more as were guessed rightly."""
        sampler: Chain = share.row.sampler  # type: ignore[assignment]
        decoder = self._decoder
        sampled = [sampler.sample(decoder.context, output, decoder.logits(output))]
        for at, guessed in enumerate(share.guess, output + 1):
            if sampled[-1] != guessed:
                break
            sampled.append(sampler.sample(decoder.context, at, decoder.logits(at)))
        share.state.trim(share.state.length - len(share.guess) + len(sampled) - 1)
        return sampled
