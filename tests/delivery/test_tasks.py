"""What is done beside everything else: one that fails is told of and harms no other."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from chatbridge.delivery.tasks import Tasks
from chatbridge.errors import StoreFull


async def test_one_that_fails_is_logged_and_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    tasks, go_on = Tasks("guild"), asyncio.Event()

    async def fail() -> None:
        raise ZeroDivisionError("of all things")

    async def work() -> None:
        await go_on.wait()

    tasks.start(work())
    tasks.start(fail())
    await asyncio.wait(tasks.running, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    (left,) = tasks.running
    assert not left.done()
    go_on.set()
    await asyncio.wait(tasks.running)
    await asyncio.sleep(0)
    assert tasks.running == []
    assert [record.getMessage() for record in caplog.records] == [
        "bot guild: a message waits to be tried again: of all things"
    ]
    assert complaints == []


async def test_a_failure_is_remembered_and_a_full_disk_needs_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks("guild")

    async def fail(error: Exception | None) -> None:
        if error is not None:
            raise error

    for error, fails in ((None, False), (StoreFull("full"), True), (ValueError("odd"), True)):
        tasks.failed = False
        tasks.start(fail(error))
        await asyncio.wait(tasks.running)
        await asyncio.sleep(0)
        assert tasks.failed is fails
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]


async def test_those_that_are_cancelled_are_waited_for_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    tasks, ended = Tasks("guild"), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    tasks.start(work())
    await asyncio.sleep(0)
    with caplog.at_level(logging.INFO):
        await tasks.cancel()
    assert ended == [True]
    assert (tasks.running, caplog.records) == ([], [])
