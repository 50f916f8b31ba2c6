"""Reads whole files that somebody named: never for ever, and never more than fits. Knows nothing of what is in them."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time
from pathlib import Path

MAX_BYTES = 8 * 2**20
"""Of a bots.yaml, or of a text that it names a file for: far more than anybody writes."""
PATIENCE = 5.0
"""Seconds until a pipe, such as that of `-c <(decrypt bots.yaml)`, has to be complete."""
_PIECE = 1 << 16
"""Bytes that are taken from a pipe at once."""


def read_file(path: Path, *, most: int = MAX_BYTES, patience: float = PATIENCE) -> bytes:
    """What is in a file or a pipe. Raises: OSError, also for one of more than `most` bytes, and for a pipe that
    nobody writes to."""
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        if sys.platform == "win32" or stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            data = file.read(most + 1) or b""
        else:
            data = _awaited(file.fileno(), most, time.monotonic() + patience)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most >> 20} MiB, the most that is read of a file", str(path))
    return data


def _without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _awaited(descriptor: int, most: int, deadline: float) -> bytes:
    pieces, count = [], 0
    while count <= most:
        readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise OSError(errno.ETIMEDOUT, "nobody writes to this pipe")
        piece = os.read(descriptor, _PIECE)
        if not piece:
            break
        pieces.append(piece)
        count += len(piece)
    return b"".join(pieces)
