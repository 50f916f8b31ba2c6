"""Standard input, output and error as they may really be: closed, full, a pipe that nobody reads, or without Unicode.

A closed one is opened anew, to something that can't be used: else the next file that the program opens, such as the
database, would take its place, and what is printed would go into it. Knows no command.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from io import TextIOWrapper

from chatbridge.operations.printable import in_one_line


def prepare() -> None:
    """See to it that all three are there; a closed one fails when it is used."""
    _fill_descriptors()
    if sys.stdin is None:
        sys.stdin = _opened(0, "r")
    if sys.stdout is None:
        sys.stdout = _opened(1, "w")
    if sys.stderr is None:
        sys.stderr = _opened(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without Unicode gets \\u2713 for what it can't show
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what is still to be written. Raises: OSError where the output can't be."""
    sys.stdout.flush()
    sys.stderr.flush()


def abandon_broken() -> None:
    """Let Python's own flush at the end go nowhere, instead of failing once more with words of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError, AttributeError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def exit_code_of(error: OSError) -> int:
    """What an error of the system that nobody took ends the program with; it is told on stderr, if that is there.

    A pipe whose reader has seen enough, as `head` has, is no failure.
    """
    broken = error.filename is None and error.errno in (errno.EPIPE, errno.EBADF, errno.ENOSPC, errno.EIO, errno.EFBIG)
    if broken and error.errno == errno.EPIPE:
        return 0
    why = "it is closed" if error.errno == errno.EBADF else error.strerror or str(error)
    if broken:
        why = f"the output can't be written: {why}"
    elif error.filename is not None:
        why = f"{os.fsdecode(error.filename)}: {why}"
    complain(why)
    return 1


def complain(what: str) -> None:
    """Say what is wrong on stderr; where that can't be written either, the exit status is all there is."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"chatbridge: {in_one_line(what)}\n")
        sys.stderr.flush()


def _fill_descriptors() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # For the wrong direction, so that a use fails; the lowest number that is free is this one.
            with suppress(OSError):
                os.open(os.devnull, os.O_WRONLY if descriptor == 0 else os.O_RDONLY)


def _opened(descriptor: int, mode: str) -> TextIOWrapper:
    stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 (it lasts as long as we do)
    assert isinstance(stream, TextIOWrapper)
    return stream
