"""How much memory a worker may have."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from chatbridge import ModelLoadError
from chatbridge.testing.toy import ToyOptions, toy_backend
from chatbridge.worker.backend import WorkerBackend

from .test_recovery import ask, text_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a limit")

ALLOCATE = """
from chatbridge.worker.memory_limit import limit_memory
limit_memory({limit})
kept = bytearray({size})
print("fine")
"""


@pytest.mark.parametrize(("limit", "size", "ends"), [(2**29, 2**28, 0), (2**29, 2**30, 1), (None, 2**30, 0)])
def test_what_is_allocated_counts(limit: int | None, size: int, ends: int) -> None:
    program = ALLOCATE.format(limit=limit, size=size)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == ends, done.stderr
    assert ("MemoryError" in done.stderr) == bool(ends)


def test_a_model_that_needs_more_is_told_of_with_its_limit() -> None:
    async def main() -> None:
        backend = WorkerBackend(toy_backend, ToyOptions(), name="toy", memory_limit=2**20)
        try:
            with pytest.raises(ModelLoadError, match=r"memory_limit of 0\.0 GiB"):
                await backend.start()
        finally:
            await backend.aclose()

    asyncio.run(main())


def starve(pid: int) -> None:
    """Let all memory that a process may have be what it has."""
    import resource

    used = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
    _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (used * resource.getpagesize(), hard))


def test_whom_a_worker_has_no_memory_for_is_answered_by_the_next_one() -> None:
    async def main() -> None:
        backend = WorkerBackend(toy_backend, ToyOptions(context_length=200_000), name="toy")
        await backend.start()
        try:
            starved = backend.pid
            assert starved is not None
            starve(starved)
            asked = [ask("why? " * 20_000 + str(number)) for number in range(4)]
            texts = await asyncio.gather(*(text_of(backend, request) for request in asked))
            assert all(texts)
            assert backend.pid != starved
        finally:
            await backend.aclose()

    asyncio.run(main())
