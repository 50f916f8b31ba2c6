"""What came of requests and was not sent to the parent yet: a model whose steps are short tells of several at once.

Each message costs both processes more than the step of a small model. Knows events and time; knows no socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from chatbridge.types import Chunk
from chatbridge.worker.protocol import RequestEvent

TELL_SECONDS = 0.005
"""What came less than so many seconds after the last message waits for the next step, unless an answer has ended."""


class Untold:
    """Events in the order of each request, one piece of text for all that came of it. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._events: dict[str, list[RequestEvent]] = {}
        self._told_at = -TELL_SECONDS
        self._urgent = False

    def add(self, events: Iterable[RequestEvent]) -> None:
        """More has come."""
        for event in events:
            known = self._events.setdefault(event.id, [])
            joined = _joined(known[-1], event) if known else None
            if joined is None:
                known.append(event)
            else:
                known[-1] = joined
            chunk = event.chunk
            ends = event.failure is not None or (chunk is not None and chunk.finish is not None)
            self._urgent = self._urgent or ends

    def due(self) -> bool:
        """Whether it is time to tell: somebody waits for an end, or enough time has passed."""
        return bool(self._events) and (self._urgent or self._clock() - self._told_at >= TELL_SECONDS)

    def take(self) -> tuple[RequestEvent, ...]:
        """All of them, which are told now; there may be none."""
        events = tuple(event for known in self._events.values() for event in known)
        if events:
            self._events, self._urgent, self._told_at = {}, False, self._clock()
        return events


def _joined(first: RequestEvent, second: RequestEvent) -> RequestEvent | None:
    """Both as one, as if the model had said them at once; None where they tell of more than text."""
    before, after = first.chunk, second.chunk
    if first.failure is not None or second.failure is not None:
        return None
    chunk = after if before is None else before
    if before is not None and after is not None:
        if before.finish is not None or before.waiting is not None or after.waiting is not None:
            return None
        if before.thinking != after.thinking:
            return None
        chunk = Chunk(before.text + after.text, before.thinking, after.finish)
    return replace(second, chunk=chunk, tokens=first.tokens + second.tokens)
