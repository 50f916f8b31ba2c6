"""Worker processes whose start is cancelled leave nothing behind: no process, no pipe, no socket."""

from __future__ import annotations

import asyncio
import gc
import warnings

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
