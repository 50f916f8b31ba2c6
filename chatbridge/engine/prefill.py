"""How much of the prompts one step reads, so that those who are being answered need not wait long for their next word.

Learned from how long the last steps took: what a graphics card reads at a glance holds a processor up for a minute.
Knows no request and no model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STEP_SECONDS = 0.5
"""How long reading may hold up a step in which somebody is being answered."""

LEAST = 16
"""Tokens that are read in any case: fewer cost as much, and tell nothing of the pace."""


@dataclass(slots=True)
class Pace:
    """How fast a model reads. `seconds`: how long reading may hold up a step; `clock` gives seconds."""

    seconds: float = STEP_SECONDS
    clock: Callable[[], float] = time.monotonic
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=2))

    @contextmanager
    def reading(self, tokens: int) -> Iterator[None]:
        """The block reads so many tokens beside all else that it does."""
        begin = self.clock()
        yield
        if tokens >= LEAST:
            self._last.append((self.clock() - begin) / tokens)

    def most(self) -> int | None:
        """Tokens that may be read in one step; None where nothing is known yet."""
        # The faster of the last two steps: the other may have waited for another program.
        fastest = min(self._last, default=0.0)
        return max(LEAST, int(self.seconds / fastest)) if fastest > 0 else None
