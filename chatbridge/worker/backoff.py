"""How long to wait before a worker that died, or a model that would not load, is tried again. Knows no process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

FIRST, MOST = 1.0, 60.0
"""Seconds of the first wait, which doubles with each failure, and of the longest."""

_JITTER = 0.2
_MOST_DOUBLINGS = 16


@dataclass(slots=True)
class Backoff:
    """`failed` doubles the wait and `succeeded` takes one failure off; `free` failures are followed by none.

    `clock` gives seconds; `chance` a number from 0 to 1, so that many models that fell together do not rise together.
    `reason`: what failed last.
    """

    free: int = 1
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    failures: int = 0
    reason: str = ""
    _until: float = field(default=0.0)

    def failed(self, reason: str) -> None:
        """Count a failure."""
        self.failures += 1
        self.reason = reason
        if (doublings := self.failures - self.free - 1) >= 0:
            seconds = min(MOST, FIRST * 2 ** min(doublings, _MOST_DOUBLINGS))
            self._until = self.clock() + seconds * (1 - _JITTER * self.chance())

    def succeeded(self) -> None:
        """Count something that went well."""
        self.failures = max(0, self.failures - 1)

    def remaining(self) -> float:
        """Seconds until the next try is due; 0 where it is."""
        return max(0.0, self._until - self.clock())
