"""Starts the program in a process of its own, as people do. Knows no test and no chat service."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def default_signals() -> Iterator[None]:
    """Programs that are started inside take Ctrl-C, also where whoever runs the tests ignores it.

    A shell lets what it starts with `&` ignore SIGINT, and so do many CI services; children inherit that. What is
    handled here is at its default in them.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


async def start_program(folder: Path, *words: str) -> asyncio.subprocess.Process:
    """`chatbridge` in a process of its own, as somebody who follows a README starts it."""
    with default_signals():
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "chatbridge", *words),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
