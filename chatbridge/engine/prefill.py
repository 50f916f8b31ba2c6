"""How much of the prompts one step reads, so that those who are being answered need not wait long for their next word.

Learned from how long the last steps took: what a graphics card reads at a glance holds a processor up for a minute.
Elsewhere called chunked prefill. Knows no request and no model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STEP_SECONDS = 0.5
"""How long reading may hold up a step in which somebody is being answered."""

MAX_PATIENCE = 4
"""How many times as long it may, where as many wait for their first word for each that is being answered."""

MIN_TOKENS = 16
"""Tokens that are read in any case: fewer cost as much, and tell nothing of the model's speed."""


@dataclass(slots=True)
class PrefillLimit:
    """How many tokens of prompts the next step may read.

    `seconds`: how long reading may hold up a step. `clock` gives seconds, and sees short steps, too; `time.monotonic`
    counts 16 ms at once on Windows.
    """

    seconds: float = STEP_SECONDS
    clock: Callable[[], float] = time.perf_counter
    # Of each of the last steps that read something.
    _seconds_per_token: deque[float] = field(default_factory=lambda: deque(maxlen=2))

    @contextmanager
    def measure(self, tokens: int, others: int = 0) -> Iterator[None]:
        """Time the block, a step that reads `tokens` of prompts, and `others` that come in any case.

        Those cost no less than the ones that are read: what they take is not for reading to make up for. Otherwise the
        more are being answered, the less would be read, in ever smaller and ever dearer steps.
        """
        start = self.clock()
        yield
        if tokens >= MIN_TOKENS:
            self._seconds_per_token.append((self.clock() - start) / (tokens + others))

    def max_tokens(self, answering: int = 1, waiting: int = 0) -> int:
        """Tokens that the next step may read: as few as tell something while nothing has been measured.

        `answering`: who is held up by it; `waiting`: who waits for a first word. Few may have to wait for many: where
        all come at once, the first to be answered would otherwise have them read by the spoonful.
        """
        # The faster of the last two steps: the other may have waited for another program.
        fastest = min(self._seconds_per_token, default=0.0)
        seconds = self.seconds * min(max(1.0, waiting / max(1, answering)), MAX_PATIENCE)
        return max(MIN_TOKENS, int(seconds / fastest)) if fastest > 0 else MIN_TOKENS
