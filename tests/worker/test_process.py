"""Worker processes whose start is cancelled leave nothing behind: no process, no pipe, no socket."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chatbridge.worker.process import WorkerProcess


@pytest.mark.parametrize("by_port", [False, True])
@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8, 13, 21])
async def test_a_start_that_is_cancelled_leaves_nothing_behind(by_port: bool, after: int) -> None:
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always", ResourceWarning)
        starting = asyncio.create_task(WorkerProcess.start(by_port=by_port))
        for _ in range(after):  # each time the loop has gone round, the start is somewhere else
            await asyncio.sleep(0)
        starting.cancel()
        (ended,) = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(ended, WorkerProcess):
            await ended.end()
        del starting, ended
        gc.collect()
    assert [str(one.message) for one in left] == []


async def test_strangers_at_the_port_are_let_go_and_hold_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    strangers, begin = [], asyncio.start_server

    async def begin_among_strangers(*arguments: Any, **options: Any) -> asyncio.Server:
        server = await begin(*arguments, **options)
        for said in (b"", b"wrong\n", b"x" * 3_000_000):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(said)
            strangers.append((reader, writer))
        return server

    monkeypatch.setattr(asyncio, "start_server", begin_among_strangers)
    worker = await WorkerProcess.start(by_port=True)
    for reader, writer in strangers:
        async with asyncio.timeout(60):
            with suppress(ConnectionError):
                assert await reader.read() == b"", "nothing is said to them"
        writer.close()
    await worker.end()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where a process's environment can be read")
async def test_a_workers_threads_wait_so_that_others_can_work_unless_the_user_says_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OPENBLAS_THREAD_TIMEOUT", "SOME_LIBRARY"):
        monkeypatch.delenv(name, raising=False)
    assert {"OMP_WAIT_POLICY=passive", "SOME_LIBRARY=5"} <= await environment_of_a_worker({"SOME_LIBRARY": "5"})
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    found = await environment_of_a_worker()
    assert "OMP_WAIT_POLICY=active" in found
    assert not any(variable.startswith("GOMP_SPINCOUNT") for variable in found)


async def environment_of_a_worker(variables: Mapping[str, str] | None = None) -> set[str]:
    worker = await WorkerProcess.start(variables=variables)
    found = await asyncio.to_thread(Path(f"/proc/{worker.pid}/environ").read_text)
    await worker.end()
    return set(found.split("\0"))
