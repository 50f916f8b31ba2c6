"""The event loop, the log, tasks and memory, all along. Knows no bot.

A callback counts by the processor time that this process has spent in it: what the machine does meanwhile is not ours.
"""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LATE = 0.25
"""Seconds that nothing may hold up the event loop."""

SAMPLE = 0.02
"""How old, in seconds, the processor time may be that a callback is measured from."""

Report = Callable[[str, str], None]


class Watch:
    """`longest`: the most seconds of processor time that the event loop was held up by one callback, and by which."""

    def __init__(self, report: Report) -> None:
        self.longest, self.by = 0.0, ""
        self._report = report

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look on as long as the context lasts, inside a running loop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unhandled)
        handler = _Handler(self._report)
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        handles: Any = events.Handle
        run = handles._run

        # Asking for the processor time takes long on some machines: it is asked for now and then, so that a callback
        # may be counted as longer than it was by that, and by no more.
        asked, spent = time.perf_counter(), time.process_time()

        def timed(handle: Any) -> None:
            nonlocal asked, spent
            begun = time.perf_counter()
            if begun - asked > SAMPLE:
                asked, spent = begun, time.process_time()
            run(handle)
            if (late := time.perf_counter() - begun) > self.longest:
                self._late(min(late, time.process_time() - spent), handle)

        handles._run = timed
        try:
            yield
        finally:
            handles._run = run
            root.removeHandler(handler)
            root.setLevel(level)
            loop.set_exception_handler(None)

    def _late(self, seconds: float, handle: Any) -> None:
        if seconds <= self.longest:
            return
        owner = getattr(handle._callback, "__self__", None)
        self.longest, self.by = seconds, repr(owner if isinstance(owner, asyncio.Task) else handle._callback)
        if seconds > LATE:
            self._report("late", f"the event loop was held up for {seconds:.2f} s by {self.by}")

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._report("task", f"{context.get('message')}: {context.get('exception')!r}")


class _Handler(logging.Handler):
    """Whatever has a traceback, or is an error, is none of what may happen."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self._report("log", logging.Formatter("%(name)s: %(message)s").format(record))


def resident() -> float:
    """Memory of this process in MiB; 0 where the system does not tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * 4096 / 2**20 if path.exists() else 0.0
