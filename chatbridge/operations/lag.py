"""Watches whether the event loop keeps time: what blocks it delays every chat. Knows no bot."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from chatbridge.delivery.clock import Clock, LoopClock

log = logging.getLogger(__name__)

INTERVAL = 0.1
WARN_AFTER = 0.25
QUIET = 10.0
"""Seconds: how often the lag is sampled, from which lag on it warns, and how long it is silent after a warning."""

KEPT = 60.0
"""For how many seconds a sample counts."""

LINGER = 2.0
"""Seconds that sampling goes on for after the last work: a program that nobody talks to is left asleep."""


class LoopLag:
    """How late the event loop was in the last minute; `run` samples it until cancelled."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or LoopClock()
        self._samples: deque[tuple[float, float]] = deque()

    @property
    def worst(self) -> float:
        """The longest lag of the last minute, in seconds."""
        return max(self._recent(), default=0.0)

    def quantile(self, share: float) -> float:
        """The lag, in seconds, that this share of the samples did not exceed."""
        ordered = sorted(self._recent())
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    async def run(self, stirred: asyncio.Event | None = None, busy: Callable[[], bool] = lambda: False) -> None:
        """Take a sample every `INTERVAL` seconds, and warn of long lags.

        With `stirred` only while there is something to do: from its being set on, while the program is `busy`.
        """
        silent_until = worst = awake_until = 0.0
        while True:
            before = self._clock.time()
            if stirred is not None:
                if stirred.is_set() or busy():
                    awake_until = before + LINGER
                    stirred.clear()
                elif before >= awake_until:
                    await stirred.wait()
                    continue
            await self._clock.sleep(INTERVAL)
            now = self._clock.time()
            lag = max(0.0, now - before - INTERVAL)
            self._samples.append((now, lag))
            self._forget()
            worst = max(worst, lag)
            if worst >= WARN_AFTER and now >= silent_until:
                log.warning(
                    "the event loop was blocked for %.2f s: every chat waited; a plugin that computes, reads files or "
                    "calls a service without `await` does that, or a machine with too much to do",
                    worst,
                )
                silent_until, worst = now + QUIET, 0.0

    def _recent(self) -> list[float]:
        self._forget()
        return [lag for _, lag in self._samples]

    def _forget(self) -> None:
        while self._samples and self._samples[0][0] <= self._clock.time() - KEPT:
            self._samples.popleft()
