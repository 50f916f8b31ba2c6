"""Keeps a worker from taking the whole machine down: a limit of its memory, and the system's first choice to end.

Knows POSIX and Linux; elsewhere it does nothing. Called inside the worker.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_OOM_SCORE = 500
"""Of -1000 to 1000: when memory runs out, Linux ends the process with the highest first."""


def limit_memory(limit: int | None) -> None:
    """Let this process have at most `limit` bytes of its own, and be the first to go when memory runs out.

    A model's file that is mapped into memory does not count, nor does a graphics card's memory: RLIMIT_DATA counts what
    is allocated, where RLIMIT_AS would count addresses, of which CUDA and mapped files take many times the memory.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a container may forbid it
            Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    if limit is None:
        return
    if sys.platform == "linux":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
    else:
        print(f"memory_limit is not kept: {sys.platform} has no such limit", flush=True)


def at_limit(limit: int | None) -> bool:
    """Whether this process has about as much memory as it may have."""
    if limit is None or sys.platform != "linux":
        return False
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    kib = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:")), 0)
    return kib * 1024 > 0.9 * limit
