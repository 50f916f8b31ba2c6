"""The event loop, the log, tasks and memory, all along. Knows no bot.

A callback counts by the processor time that the event loop's thread has spent in it: what the machine does meanwhile is
not ours, and neither is the garbage of the stand-ins, which remember all that was ever said. Where other threads of
ours were at work, the event loop may have waited for a processor as well as for them: that counts from four times the
limit on.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import sys
import threading
import time
import traceback
from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LATE = 0.25
"""Seconds that nothing may hold up the event loop."""
SAMPLE = 0.02
"""How old, in seconds, the processor time may be that a callback is measured from."""
FRAMES = 6

Report = Callable[[str, str], None]


class Watch:
    """`longest`: the most seconds of processor time that the event loop was held up by one callback."""

    def __init__(self, report: Report) -> None:
        self.longest = 0.0
        self._report = report
        self._begun = 0.0
        self._caught = ""
        self._collecting = self._collected = 0.0

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look on as long as the context lasts, inside a running loop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unhandled)
        handler, root = _Handler(self._report), logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        gc.callbacks.append(self._garbage)
        over = threading.Event()
        catcher = threading.Thread(target=self._catch, args=(over, threading.get_ident()), daemon=True)
        catcher.start()
        handles: Any = events.Handle
        run = handles._run
        handles._run = self._timed(run)
        try:
            yield
        finally:
            handles._run = run
            over.set()
            catcher.join()
            gc.callbacks.remove(self._garbage)
            root.removeHandler(handler)
            root.setLevel(level)
            loop.set_exception_handler(None)

    def _timed(self, run: Callable[[Any], None]) -> Callable[[Any], None]:
        # Asking for the processor time takes long on some machines: it is asked for now and then, so that a callback
        # may be counted as longer than it was by that, and by no more.
        asked, spent, spent_here = time.perf_counter(), time.process_time(), time.thread_time()

        def timed(handle: Any) -> None:
            nonlocal asked, spent, spent_here
            self._begun = begun = time.perf_counter()
            if begun - asked > SAMPLE:
                asked, spent, spent_here = begun, time.process_time(), time.thread_time()
            collected = self._collected
            run(handle)
            late = time.perf_counter() - begun - (self._collected - collected)
            if late > self.longest:
                here, by_all = time.thread_time() - spent_here, time.process_time() - spent
                counts = here if by_all < 4 * LATE else by_all
                self._late(min(late, counts - (self._collected - collected)), handle)
            self._caught = ""

        return timed

    def _late(self, seconds: float, handle: Any) -> None:
        if seconds <= self.longest:
            return
        self.longest = seconds
        if seconds > LATE:
            owner = getattr(handle._callback, "__self__", None)
            who = repr(owner if isinstance(owner, asyncio.Task) else handle._callback)
            where = self._caught or who
            self._report("late", f"in {where} the event loop was held up for {seconds:.2f} s; {who[:200]}")

    def _catch(self, over: threading.Event, thread: int) -> None:
        """Note where the event loop is, each time that it is late."""
        while not over.wait(LATE / 5):
            if not self._caught and time.perf_counter() - self._begun > LATE / 2:
                try:
                    frames = traceback.extract_stack(sys._current_frames()[thread])[-FRAMES:]
                except (AttributeError, KeyError):  # it went on while it was looked at
                    continue
                self._caught = " < ".join(
                    f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in reversed(frames)
                )

    def _garbage(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._collecting = now
        else:
            self._collected += now - self._collecting

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


def in_use() -> float:
    """Memory of this process in MiB, once what is free in it was given back where the C library can do that (glibc).

    Between allocations of many sizes from many threads, much stays free that no other program gets.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident()


def resident() -> float:
    """Memory of this process in MiB; 0 where the system does not tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * 4096 / 2**20 if path.exists() else 0.0
