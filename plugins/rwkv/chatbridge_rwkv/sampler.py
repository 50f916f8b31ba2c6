"""Picks the next token as ChatRWKV does, with the core's options besides. Knows options and logits; knows no text.

The order is: logit_bias and bans, the rules of a chat, penalties, then probabilities once and for all; typical_p,
top_p, top_k and min_p cut from these, and temperature comes last. Unlike the core's own order, top_p comes before top_k
and counts shares of everything. Draw n of a seeded answer depends on the seed and n alone.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatbridge import BackendError, Sampling, draw_token, locally_typical

Floats = NDArray[np.floating]
Ids = NDArray[np.int64]

_NEVER = -1e9


@dataclass(frozen=True, slots=True)
class Rules:
    """What a model's options say about sampling, by ids.

    `decay`: what earlier tokens' counts are multiplied by with each token; None counts the last `penalty_window`
    tokens instead. `light`: tokens (blanks, digits) that come often without repeating anything. `bans`: never sampled.
    `avoid`: never twice in a row. `chat_length`: tokens up to which, and from which on, line ends are held back and
    hurried up; `line_end`: their id.
    """

    decay: float | None = 0.996
    light: frozenset[int] = frozenset()
    bans: tuple[int, ...] = ()
    avoid: frozenset[int] = frozenset()
    chat_length: tuple[int, int] | None = None
    line_end: int = 0


class RwkvSampler:
    """The sampler of one request. `prompt`: every id before the next one; `generated`: how many are of this answer."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], generated: int, rules: Rules) -> None:
        self._sampling = sampling
        self._rules = rules
        self._seen = list(prompt)
        self._generated = 0
        self._seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        biases = {**dict(sampling.logit_bias), **dict.fromkeys(rules.bans, -np.inf)}
        self._bias_ids = np.fromiter(biases, np.int64, len(biases))
        self._biases = np.fromiter(biases.values(), np.float32, len(biases))
        self._counts = _Fading(rules.decay or 1)
        for token in self._seen[len(self._seen) - generated :]:
            self._count(token)

    def sample(self, logits: Floats) -> int:
        """The next id, from logits of shape [vocabulary]; the sampler remembers it.

        Raises: BackendError for logits without a greatest (NaN, or all minus infinity).
        """
        scores = self._adjusted(logits)
        token = int(scores.argmax()) if self._sampling.temperature == 0 else self._draw(scores)
        self._seen.append(token)
        self._count(token)
        return token

    def probabilities(self, logits: Floats) -> tuple[Ids, Floats]:
        """The ids that the next draw chooses from and their probabilities, likeliest first."""
        return self._narrowed(self._adjusted(logits))

    def _count(self, token: int) -> None:
        self._counts.add(token, 0.0 if token in self._rules.light else 1.0)
        self._generated += 1

    def _adjusted(self, logits: Floats) -> Floats:
        scores = logits.astype(np.float32)
        if self._bias_ids.size:
            scores[self._bias_ids] += self._biases
        if self._rules.chat_length is not None:
            scores[self._rules.line_end] += _for_line_end(self._generated, *self._rules.chat_length)
        if self._seen and self._seen[-1] in self._rules.avoid:
            scores[self._seen[-1]] = _NEVER
        self._penalise(scores)
        if not np.isfinite(greatest := scores.max()):
            raise BackendError(f"the model's logits are no numbers to choose from (the greatest is {greatest})")
        return scores

    def _penalise(self, scores: Floats) -> None:
        options = self._sampling
        if options.repeat_penalty != 1:
            ids = np.fromiter(set(self._seen[-options.penalty_window :]), np.int64)
            seen = scores[ids]
            scores[ids] = np.where(seen > 0, seen / options.repeat_penalty, seen * options.repeat_penalty)
        if not options.presence_penalty and not options.frequency_penalty:
            return
        if self._rules.decay is None:
            counts = Counter(self._seen[-options.penalty_window :])  # a window of 0 is everything
            ids = np.fromiter(counts, np.int64, len(counts))
            times: Floats = np.fromiter(counts.values(), np.float64, len(counts))
        else:
            ids, times = self._counts.ids, self._counts.times
        scores[ids] -= (options.presence_penalty + options.frequency_penalty * times).astype(np.float32)

    def _narrowed(self, scores: Floats) -> tuple[Ids, Floats]:
        options = self._sampling
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        if options.typical_p < 1:
            ids = locally_typical(shares, options.typical_p)
        else:
            ids = _likely(shares, options.top_p, options.top_k)
        ids = ids[np.argsort(-shares[ids], kind="stable")]  # likeliest first; of equal ones the first, always
        chances = shares[ids].astype(np.float64)
        if options.top_p < 1:
            # Everything as likely as the last one that is needed stays, as in the original.
            last = min(int(np.searchsorted(np.cumsum(chances), options.top_p)), ids.size - 1)
            ids = ids[chances >= chances[last]]
        if options.top_k:
            ids = ids[: options.top_k]
        chances = chances[: ids.size]
        if options.min_p > 0:
            ids = ids[chances >= options.min_p * chances[0]]
        if options.temperature in (0, 1):
            weights = chances[: ids.size]
        else:
            with np.errstate(under="ignore", divide="ignore"):
                weights = np.exp(np.log(chances[: ids.size] / chances[0]) / options.temperature)
        return ids, weights / weights.sum()

    def _draw(self, scores: Floats) -> int:
        return draw_token(*self._narrowed(scores), seed=self._seed, drawn=self._generated)


class _Fading:
    """How often each token came, earlier times counting less and less."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._places: dict[int, int] = {}
        self._ids = np.zeros(64, np.int64)
        self._times = np.zeros(64, np.float64)

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self._places)]

    @property
    def times(self) -> Floats:
        return self._times[: len(self._places)]

    def add(self, token: int, weight: float) -> None:
        times = self._times[: len(self._places)]
        times *= self._decay
        place = self._places.setdefault(token, len(self._places))
        if place == self._ids.size:
            self._ids, self._times = np.resize(self._ids, 2 * place), np.resize(self._times, 2 * place)
            self._times[place:] = 0
        self._ids[place] = token
        self._times[place] += weight


def _for_line_end(generated: int, short: int, long: int) -> float:
    """What ChatRWKV's chat adds to a line end's logit: none at the very start, and an end before it gets long."""
    if generated < 2:
        return _NEVER
    last = generated - 1
    if last <= short:
        return (last - short) / 10
    return min(3.0, max(0, last - long) * 0.25)


def _likely(shares: Floats, top_p: float, top_k: int) -> Ids:
    """Ids among which are all that top_p and top_k may keep: as few as will do, since sorting all takes long."""
    if top_p < 1:
        least = shares.max()
        for _ in range(16):
            least /= 3
            ids = np.flatnonzero(shares >= least)
            if shares[ids].sum() > top_p:
                return ids
    elif 0 < top_k < shares.size:
        return np.flatnonzero(shares >= np.partition(shares, -top_k)[-top_k])
    return np.arange(shares.size)
