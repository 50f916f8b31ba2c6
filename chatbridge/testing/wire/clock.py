"""The time that a stand-in server goes by: real, but a test may move it on. Knows no timer."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Seconds since the epoch, never going back; `source` gives seconds from anywhere (a constant stands still).

    Limits, deadlines and time stamps go by it. What really waits (a long poll, a slow answer) goes by the event loop.
    """

    def __init__(self, source: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._start = time.time() - source()

    def __call__(self) -> float:
        return self._start + self._source()

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._start += seconds
