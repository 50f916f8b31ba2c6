"""ChatGLM's way of choosing the next token: the temperature first, then top_k and top_p. Knows no model.

Everything else is the core's sampler, which puts the temperature last: it is given scores, biases and penalties that
are divided by it already.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatbridge import LogitsSampler, Sampling

BLANK = 5
"""The token that ChatGLM's code takes where scores are no numbers: a blank."""


class GlmSampler:
    """The sampler of one request.

    `prompt`: every id before the next one, for penalties. `generated`: how many of them belong to this answer.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = (), generated: int = 0) -> None:
        self._temperature = sampling.temperature or 1.0
        if sampling.temperature not in (0, 1):
            divided = {
                "temperature": 1.0,
                "logit_bias": {token: bias / self._temperature for token, bias in sampling.logit_bias.items()},
                "presence_penalty": sampling.presence_penalty / self._temperature,
                "frequency_penalty": sampling.frequency_penalty / self._temperature,
            }
            sampling = sampling.model_copy(update=divided)
        self._sampler = LogitsSampler(sampling, prompt, generated)

    def sample(self, logits: NDArray[np.floating]) -> int:
        """The next id, from logits of shape [vocabulary]."""
        return self._sampler.sample(guarded(logits) / self._temperature)

    def probabilities(self, logits: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The ids that the next draw chooses from and their probabilities, likeliest first."""
        return self._sampler.probabilities(guarded(logits) / self._temperature)


def guarded(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The scores themselves; where any is no number, those by which ChatGLM's code goes on with a blank."""
    scores = logits.astype(np.float64)
    if np.isfinite(scores).all():
        return scores
    scores[:] = 0
    scores[min(BLANK, scores.size - 1)] = 5e4
    return scores
