"""Calls to the service that are not delivery's own: they wait like a chat's, count like them, and are told to them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chatbridge import Budget, RateLimited
from chatbridge.testing import ScriptedBackend

from .harness import Harness, said, virtually


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@virtually
async def test_a_call_beside_waits_until_the_budget_has_room_again(harness: Harness) -> None:
    time = asyncio.get_running_loop().time
    async with harness.program(ScriptedBackend(), budget=Budget(2, 10.0)) as delivery:
        async with delivery.other_call():
            await harness.service.clock.sleep(7)  # it counts until ten seconds after its end
        async with delivery.other_call():
            assert time() == 7
        async with delivery.other_call():
            assert time() >= 17


@virtually
async def test_answers_wait_for_calls_beside_that_are_under_way(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("One."), budget=Budget(1, 10.0)) as delivery:
        async with delivery.other_call():
            await delivery.accept(said("hello", "1"))
            await harness.service.clock.sleep(50)
            assert harness.service.calls == []
        await delivery.settled()
    assert harness.shown() == ["One."]
    assert harness.service.calls[0].time > 59


@virtually
async def test_a_global_penalty_met_beside_holds_every_call(harness: Harness) -> None:
    time = asyncio.get_running_loop().time
    async with harness.program(ScriptedBackend("One.")) as delivery:
        delivery.rate_limited(RateLimited(30, "global"))
        delivery.rate_limited(RateLimited(999, "route"))  # of a route that no chat uses
        await delivery.accept(said("hello", "1"))
        async with delivery.other_call():
            assert 30 < time() < 31
        await delivery.settled()
    assert harness.shown() == ["One."]
    assert harness.service.calls[0].time > 30
