"""Picks the next token from a row of logits, in NumPy; for every backend whose engine has no sampler of its own.

Knows no model. Draw n of a seeded answer depends on the seed and n alone, so that an answer which a new worker takes
over goes on exactly as it would have.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from chatbridge.errors import BackendError
from chatbridge.sampling import Sampling

Floats = NDArray[np.float64]


class LogitsSampler:
    """The sampler of one request.

    `prompt`: every id before the next one, for penalties. `generated`: how many of them belong to this answer.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = (), generated: int = 0) -> None:
        self._sampling = sampling
        self._seen = list(prompt)
        self._drawn = generated
        self._seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._bias_ids = np.fromiter(sampling.logit_bias, dtype=np.int64, count=len(sampling.logit_bias))
        self._bias = np.fromiter(sampling.logit_bias.values(), dtype=np.float64, count=len(sampling.logit_bias))

    def sample(self, logits: NDArray[np.floating]) -> int:
        """The next id, from logits of shape [vocabulary]; the sampler remembers it for penalties.

        Raises: BackendError for logits without a greatest (NaN, or all minus infinity).
        """
        scores = self._adjusted(logits)
        token = draw_token(*self._narrowed(scores), seed=self._seed, drawn=self._drawn)
        self._seen.append(token)
        self._drawn += 1
        return token

    def probabilities(self, logits: NDArray[np.floating]) -> tuple[NDArray[np.int64], Floats]:
        """The ids that the next draw chooses from and their probabilities, likeliest first."""
        return self._narrowed(self._adjusted(logits))

    def _adjusted(self, logits: NDArray[np.floating]) -> Floats:
        options = self._sampling
        scores = logits.astype(np.float64)
        if self._bias_ids.size:
            scores[self._bias_ids] += self._bias
        if options.repeat_penalty != 1 or options.presence_penalty or options.frequency_penalty:
            self._penalise(scores)
        if not math.isfinite(greatest := scores.max()):
            raise BackendError(f"the model's logits are no numbers to choose from (the greatest is {greatest})")
        return scores

    def _penalise(self, scores: Floats) -> None:
        options = self._sampling
        counts = Counter(self._seen[-options.penalty_window :])  # a window of 0 is everything
        ids = np.fromiter(counts, dtype=np.int64, count=len(counts))
        times = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
        seen = scores[ids]
        seen = np.where(seen > 0, seen / options.repeat_penalty, seen * options.repeat_penalty)
        scores[ids] = seen - options.presence_penalty - options.frequency_penalty * times

    def _narrowed(self, scores: Floats) -> tuple[NDArray[np.int64], Floats]:
        options = self._sampling
        if options.temperature == 0:
            return np.array([scores.argmax()]), np.ones(1)
        count = options.top_k
        # By methods throughout: rows of a small model are short, and NumPy's functions around them cost more than they.
        if 0 < count < scores.size:
            parted = scores.copy()
            parted.partition(scores.size - count)
            (ids,) = (scores >= parted[-count]).nonzero()
        else:
            ids, count = np.arange(scores.size), scores.size
        kept = scores[ids]
        order = (-kept).argsort(kind="stable")[:count]  # likeliest first; of equal ones the first, always
        ids, kept = ids[order], kept[order]
        chances = _softmax(kept)
        if options.typical_p < 1:
            typical = locally_typical(chances, options.typical_p)
            ids, kept, chances = ids[typical], kept[typical], chances[typical] / chances[typical].sum()
        if options.top_p < 1:
            count = int(chances.cumsum().searchsorted(options.top_p)) + 1
            ids, kept, chances = ids[:count], kept[:count], chances[:count]
        if options.min_p:
            likely = chances >= options.min_p * chances[0]
            ids, kept = ids[likely], kept[likely]
        with np.errstate(over="ignore"):  # next to zero, all but the likeliest end at minus infinity
            return ids, _softmax((kept - kept[0]) / options.temperature)


def draw_token(ids: NDArray[np.int64], chances: NDArray[np.floating], *, seed: int, drawn: int) -> int:
    """One of `ids` by their probabilities. `drawn`: how many of the answer's tokens were drawn with the seed before."""
    message = seed.to_bytes(8, "little") + drawn.to_bytes(8, "little")
    uniform = (int.from_bytes(blake2b(message, digest_size=8).digest(), "little") >> 11) / (1 << 53)  # in [0, 1)
    at = int(chances.cumsum().searchsorted(uniform, side="right"))
    return int(ids[min(at, ids.size - 1)])


def _softmax(scores: Floats) -> Floats:
    weights: Floats = np.exp(scores - scores.max())
    weights /= weights.sum()
    return weights


def locally_typical(chances: NDArray[np.floating], share: float) -> NDArray[np.int64]:
    """Positions, in ascending order, that locally typical sampling (Meister et al. 2022, arXiv 2202.00666) keeps."""
    with np.errstate(divide="ignore"):
        surprise = -np.log(chances)
    possible = chances > 0
    entropy = float(np.sum(chances[possible] * surprise[possible]))
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    count = int(np.searchsorted(np.cumsum(chances[order]), share)) + 1
    return np.sort(order[:count]).astype(np.int64)
