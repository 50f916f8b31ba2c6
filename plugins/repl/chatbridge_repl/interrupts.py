"""Ctrl-C and typing while an answer comes. Knows signals and terminals, no prompt and no bot."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_interrupt(action: Callable[[], object]) -> Iterator[None]:
    """Call `action` in the event loop for each Ctrl-C, instead of ending the program."""
    # By signal.signal, which Windows has, too; loop.add_signal_handler is not there.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def handler(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(action)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def without_echo() -> Iterator[None]:
    """Keep what is typed meanwhile off the screen; the next prompt finds it all the same."""
    if sys.platform == "win32":  # there, what is typed shows at the next prompt only anyway
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    quiet = termios.tcgetattr(descriptor)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
