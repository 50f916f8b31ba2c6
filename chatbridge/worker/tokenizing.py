"""Cuts texts into tokens on threads of their own, so that a long text holds up neither steps nor short texts.

One thread for each size of text: a book waits for books alone. Knows no tokenizer and no message.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

LANES = (16_384, 262_144)
"""Up to how many characters the texts of each thread have; what is longer has one more thread."""


class TokenizerThreads:
    """Runs what it is given, in order among texts of about the same length."""

    def __init__(self) -> None:
        self._queues = [queue.SimpleQueue[Callable[[], None]]() for _ in range(len(LANES) + 1)]
        self._since: list[float | None] = [None] * len(self._queues)
        for lane in range(len(self._queues)):
            threading.Thread(target=self._run, args=(lane,), daemon=True).start()

    def put(self, length: int, task: Callable[[], None]) -> None:
        """Have `task` done, which is about a text of `length` characters; it must not raise."""
        self._queues[sum(length > limit for limit in LANES)].put(task)

    def seconds(self) -> float:
        """How long the oldest task has been under way."""
        now = time.monotonic()
        return max((now - since for since in self._since if since is not None), default=0.0)

    def _run(self, lane: int) -> None:
        while True:
            task = self._queues[lane].get()
            self._since[lane] = time.monotonic()
            task()
            self._since[lane] = None
