"""A program that nobody talks to sleeps: its event loop wakes up at most twice a second, whatever it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from chatbridge import (
    Author,
    Bot,
    Bridge,
    Channel,
    Delivery,
    FrontendType,
    Limits,
    Message,
    Options,
    Plugins,
    hookimpl,
)
from chatbridge.config import SettingsSource
from chatbridge.delivery.clock import LoopClock
from chatbridge.operations.lag import LoopLag
from chatbridge.testing import FakeService, ScriptedBackend, plugin_of, run_virtually, scripted
from chatbridge.testing.virtual import wakeups

SPAN = 600
"""Seconds."""


class QuietService:
    """A chat service for as many bots as one likes, in which nobody says a word unless the test does."""

    def __init__(self) -> None:
        self.service = FakeService(Limits(2000))
        self.deliveries: dict[str, Delivery] = {}

    @hookimpl
    def register_frontends(self) -> Iterable[FrontendType]:
        return [FrontendType("quiet", Options, "a service for tests", self.run)]

    async def run(self, options: Options, bot: Bot) -> None:
        async with Delivery(bot, self.service.chat, self.service.limits) as delivery:
            await delivery.resume()
            self.deliveries[bot.name] = delivery
            await asyncio.Event().wait()


async def asleep(folder: Path, bots: int, *, spoken: bool) -> int:
    """How often the event loop wakes up in ten minutes in which nobody talks; `spoken`: somebody did before."""
    file = folder / "bots.yaml"
    entries = "".join(f"  bot{number}: {{frontend: quiet}}\n" for number in range(bots))
    file.write_text(f"models: {{m: {{backend: scripted, template: chatml}}}}\nbots:\n{entries}", encoding="utf-8")
    quiet = QuietService()
    plugins = Plugins([plugin_of(backends=[scripted(ScriptedBackend(*["hello"] * bots))]), quiet], discover=False)
    source = SettingsSource.of_file(file, plugins)
    lag = LoopLag()
    async with Bridge(source, plugins) as bridge:
        busy = bridge.services.stirred, lambda: any(one.in_hand for one in bridge.deliveries)
        tasks = [asyncio.create_task(bridge.run()), asyncio.create_task(lag.run(*busy))]
        await LoopClock().sleep(60)
        assert len(quiet.deliveries) == bots
        if spoken:
            for name, delivery in quiet.deliveries.items():
                await delivery.accept(Message("1", Channel(name), Author("a", "Ann"), "hello"))
                await delivery.settled()
            assert quiet.service.shown("bot0") == ["hello"]
        await LoopClock().sleep(60)
        before = wakeups()
        await LoopClock().sleep(SPAN)
        counted = wakeups() - before
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return counted


def test_a_bot_that_nobody_talks_to_wakes_up_at_most_twice_a_second(tmp_path: Path) -> None:
    assert run_virtually(asleep(tmp_path, 1, spoken=False)) < 2 * SPAN


def test_so_it_does_once_all_has_been_said(tmp_path: Path) -> None:
    assert run_virtually(asleep(tmp_path, 1, spoken=True)) < 2 * SPAN


def test_fifty_bots_sleep_as_well_as_one(tmp_path: Path) -> None:
    assert run_virtually(asleep(tmp_path, 50, spoken=True)) < 2 * SPAN
