"""Watches whether the event loop keeps time: what blocks it delays every chat. Knows no bot."""

from __future__ import annotations

import logging
from collections import deque

from chatbridge.delivery.clock import Clock, LoopClock

log = logging.getLogger(__name__)

INTERVAL = 0.1
WARN_AFTER = 0.25
QUIET = 10.0
"""Seconds: how often the lag is sampled, from which lag on it warns, and how long it is silent after a warning."""

MAX_SAMPLES = 600
"""So many samples are kept: those of one minute."""


class LoopLag:
    """How late the event loop was in the last minute; `run` samples it until cancelled."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or LoopClock()
        self._samples: deque[float] = deque(maxlen=MAX_SAMPLES)

    @property
    def worst(self) -> float:
        """The longest lag of the last minute, in seconds."""
        return max(self._samples, default=0.0)

    def quantile(self, share: float) -> float:
        """The lag, in seconds, that this share of the samples did not exceed."""
        ordered = sorted(self._samples)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    async def run(self) -> None:
        """Take a sample every `INTERVAL` seconds, and warn of long lags."""
        silent_until = worst = 0.0
        while True:
            before = self._clock.time()
            await self._clock.sleep(INTERVAL)
            now = self._clock.time()
            lag = max(0.0, now - before - INTERVAL)
            self._samples.append(lag)
            worst = max(worst, lag)
            if worst >= WARN_AFTER and now >= silent_until:
                log.warning(
                    "the event loop was blocked for %.2f s: every chat waited; a plugin that computes, reads files or "
                    "calls a service without `await` does that, or a machine with too much to do",
                    worst,
                )
                silent_until, worst = now + QUIET, 0.0
