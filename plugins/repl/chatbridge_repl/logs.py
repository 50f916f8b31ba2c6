"""Shows warnings and errors of the log beside the talk, where nobody has said where else they go. Knows no screen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def logs_shown(show: Callable[[str], object]) -> Iterator[None]:
    """Have `show` called in the event loop with each warning and error, from whatever thread."""
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    handler = _Handler(asyncio.get_running_loop(), show)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, loop: asyncio.AbstractEventLoop, show: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._loop = loop
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._loop.call_soon_threadsafe(self._show, self.format(record))
