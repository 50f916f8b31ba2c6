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
from chatbridge.worker.memory_limit import at_limit

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


def test_a_process_is_at_its_limit_when_hardly_anything_is_left() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (used,) = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
    assert not at_limit(None)
    assert [at_limit(int(used * times)) for times in (0.5, 1.04, 1.3, 20)] == [True, True, False, False]


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


DEAF = """
import socket, threading
import chatbridge.worker.__main__ as worker

class Deaf(worker._Worker):
    def run(self):
        threading.Thread(target=self.{method}, args={args}, daemon=True).start()
        threading.Event().wait()

    def _ids(self, engine, prompt):
        raise MemoryError("nothing is left")

    def _read(self):
        raise MemoryError("nothing is left")

worker._Worker = Deaf
ours, theirs = socket.socketpair()
from chatbridge.engine.backend import Request
worker.main("fd:%d" % theirs.detach())
"""


@pytest.mark.parametrize(("method", "args"), [("_read", "()"), ("_tokenize_request", "(None, Request(()))")])
def test_a_worker_one_of_whose_threads_finds_no_memory_ends_at_once(method: str, args: str) -> None:
    program = DEAF.format(method=method, args=args)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "MemoryError: nothing is left" in done.stderr


def test_a_process_knows_whether_it_has_what_it_may_have() -> None:
    assert at_limit(2**20)
    assert not at_limit(2**60)
    assert not at_limit(None)
