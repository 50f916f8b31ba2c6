"""What those who watch a delivery are told, and what is left of one that has ended: nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chatbridge import Press
from chatbridge.testing import ScriptedBackend

from .echo import EchoBackend
from .harness import ANN, PRIVATE, Harness, said, virtually


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@virtually
async def test_nothing_is_left_of_a_delivery_that_has_ended(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        services = delivery.bot.services
        assert delivery in services.deliveries
        await delivery.accept(said("x: 5 words"))
        await delivery.settled()
    assert delivery not in services.deliveries
    assert asyncio.all_tasks() == {asyncio.current_task()}


@virtually
async def test_whatever_people_do_stirs_the_program(harness: Harness) -> None:
    async with harness.program(EchoBackend()) as delivery:
        stirred = delivery.bot.services.stirred
        for doing in (
            delivery.accept(said("x: 1 words")),
            delivery.press(Press("stop", "0", PRIVATE, ANN)),
            delivery.call(said("/help", "2")),
        ):
            stirred.clear()
            await doing
            assert stirred.is_set()


@virtually
async def test_what_is_in_hand_is_counted_until_it_is_answered(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 3 words"))
        assert (delivery.in_hand, delivery.queued, delivery.bot_name) == (1, 0, "bot")
        await delivery.settled()
        assert (delivery.in_hand, delivery.queued) == (0, 0)
        again = Press("regenerate", harness.id(0), PRIVATE, ANN, id="p")
        assert await delivery.press(again) == ""
        assert delivery.in_hand == 1
        await delivery.settled()
        assert await delivery.call(said("/regenerate", "3")) == ()
        assert delivery.in_hand == 1
        await delivery.settled()
        assert delivery.in_hand == 0
    assert len(harness.shown()) == 3


@virtually
async def test_each_call_is_counted_by_what_came_of_it(harness: Harness) -> None:
    async with harness.program(ScriptedBackend("one", "two")) as delivery:
        for number in "12":
            await delivery.accept(said("hello", number))
            await delivery.settled()
        sent = delivery.calls["send", "ok"]
        assert sent == 2
        assert sum(delivery.calls.values()) == sent + delivery.calls["typing", "ok"] + delivery.calls["edit", "ok"]


@virtually
async def test_while_it_ends_nothing_new_is_begun_and_what_came_is_answered_at_the_next_start(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 1.0)) as delivery:
        await delivery.accept(said("x: 5 words"))
        ending = asyncio.create_task(delivery.__aexit__(None, None, None))
        await harness.service.clock.sleep(1)
        await delivery.accept(said("late: 1 words", "2"))
        assert delivery.in_hand == 1
        await ending
        assert len(harness.shown()) == 1
    async with harness.program(EchoBackend()) as delivery:
        await delivery.resume()
    assert [text.partition(".")[0] for text in harness.shown()] == ["x", "late"]


@virtually
async def test_whoever_wants_to_end_at_once_waits_for_no_answer(harness: Harness) -> None:
    async with harness.program(EchoBackend(pauses=lambda: 100.0)) as delivery:
        await delivery.accept(said("x: 50 words"))
        await harness.service.clock.sleep(5)
        delivery.stop_waiting()
        begun = harness.service.clock.time()
    assert harness.service.clock.time() - begun < 100
    assert delivery.in_hand == 0
