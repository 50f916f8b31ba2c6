"""Bots whose model is unloaded while nobody talks: what people see, what those see who watch, and what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import (
    Author,
    BackendType,
    Bridge,
    Channel,
    ChannelSettings,
    Chunk,
    Delivery,
    FrontendType,
    Limits,
    Message,
    ModelLoadError,
    Notice,
    Options,
    Plugins,
    ReplyStream,
    Sampling,
)
from chatbridge.config import BotSettings, ModelSettings, Settings, SettingsSource
from chatbridge.delivery.clock import LoopClock
from chatbridge.operations.lag import LoopLag
from chatbridge.operations.metrics import Metrics
from chatbridge.operations.service import _health
from chatbridge.testing import FakeService, plugin_of, run_virtually
from chatbridge.testing.toy import ToyOptions
from chatbridge.texts import say

from .in_process import InProcess

MINUTE = 60.0
ANN, HERE = Author("ann", "Ann"), Channel("here")
sleep = LoopClock().sleep


class Loads:
    """Toy models in this process that take `seconds` to load; `broken` is why they can't be. `count`: all loads."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.broken = ""
        self.count = 0
        self.backend = BackendType("toy", ToyOptions, "", connect=self._connect)

    async def _connect(self, options: ToyOptions) -> InProcess:
        await sleep(self.seconds)
        if self.broken:
            raise ModelLoadError(self.broken)
        self.count += 1
        return InProcess(options)


class Program:
    """Two bots, `a` and `b`, on two models, `one` and `two`; they are unloaded after ten minutes."""

    def __init__(self, bridge: Bridge, source: SettingsSource, loads: Loads, metrics: Metrics) -> None:
        self.bridge, self.source, self.loads, self.metrics = bridge, source, loads, metrics
        self._number = 0

    def message(self, text: str, language: str = "en") -> Message:
        self._number += 1
        return Message(str(self._number), HERE, ANN, text, language=language)

    async def ask(self, text: str = "hello", bot: str = "a", language: str = "en") -> list[Chunk]:
        reply = await self.bridge.bot(bot).receive(self.message(text, language))
        assert isinstance(reply, ReplyStream)
        return [chunk async for chunk in reply]

    async def command(self, text: str, language: str = "en") -> str:
        told = await self.bridge.bot("a").receive(self.message(text, language))
        assert isinstance(told, Notice)
        return told.text

    @property
    def loaded(self) -> list[str]:
        return sorted(self.bridge.models.loaded())

    def health(self) -> tuple[str, object]:
        page = _health(self.bridge, LoopLag())
        return page.status, json.loads(page.body)["model_states"]

    async def number(self, name: str) -> float | None:
        lines = (await self.metrics.text()).decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), None)


@asynccontextmanager
async def running(folder: Path, **models: object) -> AsyncIterator[Program]:
    loads, metrics = Loads(), Metrics(LoopLag())
    waits = FrontendType("waits", Options, "", lambda options, bot: asyncio.Event().wait())  # type: ignore[arg-type]
    plugins = Plugins([plugin_of(backends=[loads.backend], frontends=[waits]), metrics], discover=False)
    one = ModelSettings("one", "toy", ToyOptions(eos_every=20), template="chatml", idle_minutes=10)
    defaults = ChannelSettings(sampling=Sampling(seed=1, max_tokens=20), reply_to="always")
    bots = {name: BotSettings(name, "waits", Options()) for name in "ab"}
    source = SettingsSource(
        Settings({"one": one, "two": replace(one, name="two")}, plugins.templates, folder / "db", defaults, bots)
    )
    clock = asyncio.get_running_loop().time
    async with Bridge(source, plugins, clock=clock, monotonic=clock) as bridge:
        metrics.bridge = bridge
        yield Program(bridge, source, loads, metrics)


def virtually(tmp_path: Path, test: Callable[[Program], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running(tmp_path) as program:
            await test(program)

    run_virtually(main())


def test_a_model_that_was_loaded_before_anybody_asked_is_unloaded_as_well(tmp_path: Path) -> None:
    async def test(program: Program) -> None:
        serving = asyncio.create_task(program.bridge.run())
        await sleep(9 * MINUTE)
        assert program.loaded == ["one"]
        await sleep(2 * MINUTE)
        assert program.loaded == []
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    virtually(tmp_path, test)


def test_an_answer_begins_by_saying_that_its_model_is_loaded_and_only_where_it_is(tmp_path: Path) -> None:
    async def test(program: Program) -> None:
        first = await program.ask()
        assert [chunk.loading for chunk in first[:3]] == [True, False, False]
        assert [chunk.text for chunk in first[:2]] == ["", ""]
        assert not any(chunk.loading for chunk in await program.ask())
        await sleep(11 * MINUTE)
        assert program.loaded == []
        assert [chunk.loading for chunk in (await program.ask())[:3]] == [True, False, False]
        assert program.loads.count == 2

    virtually(tmp_path, test)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_while_it_is_loaded_again_the_placeholder_says_so_and_then_no_longer(tmp_path: Path, language: str) -> None:
    async def test(program: Program) -> None:
        service = FakeService(Limits(2000, typing_every=0.0))
        await program.ask()
        await sleep(11 * MINUTE)
        program.loads.seconds = 40.0
        async with Delivery(program.bridge.bot("a"), service.chat, service.limits, clock=LoopClock()) as delivery:
            await delivery.accept(program.message("你好" if language == "zh" else "hello", language))
            await sleep(20)
            [shown] = service.shown(HERE.id)
            assert shown == say(language, "loading")
            await delivery.settled()
            [answer] = service.shown(HERE.id)
            assert answer != shown
            assert say(language, "loading") not in answer

    virtually(tmp_path, test)


def test_bots_that_share_a_model_keep_it_for_one_another(tmp_path: Path) -> None:
    async def test(program: Program) -> None:
        for bot in "abab":
            await program.ask(bot=bot)
            await sleep(6 * MINUTE)
        assert program.loads.count == 1
        await sleep(5 * MINUTE)
        assert program.loaded == []

    virtually(tmp_path, test)


def test_a_model_that_a_conversation_has_left_is_unloaded_and_the_other_one_is_not(tmp_path: Path) -> None:
    async def test(program: Program) -> None:
        await program.ask()
        await sleep(5 * MINUTE)
        await program.command("/model two")
        await program.ask()
        assert program.loaded == ["one", "two"]
        await sleep(6 * MINUTE)
        assert program.loaded == ["two"]
        await program.command("/model one")
        assert (await program.ask())[0].loading
        await sleep(5 * MINUTE)
        assert program.loaded == ["one"]

    virtually(tmp_path, test)


def test_stats_say_that_it_is_unloaded_and_for_how_long_nobody_has_asked(tmp_path: Path) -> None:
    async def test(program: Program) -> None:
        await program.ask()
        assert "unloaded" not in await program.command("/stats")
        await sleep(15 * MINUTE)
        told = await program.command("/stats")
        assert "The model one is unloaded, since nobody has used it for 15 min; your next message" in told
        assert "模型 one 已卸载（15 分钟无人使用）" in await program.command("/stats", "zh")
        assert str(tmp_path) not in told
        assert program.loaded == [], "who asks for numbers uses no model"
        await program.command("/model two")
        assert "unloaded" not in await program.command("/stats"), "the next answer comes from another one"
        await program.command("/model one")
        await program.ask()
        assert "unloaded" not in await program.command("/stats")

    virtually(tmp_path, test)


def test_an_idle_program_is_healthy_and_one_whose_model_does_not_come_back_is_not(tmp_path: Path) -> None:
    async def test(program: Program) -> None:
        assert program.health() == ("200 OK", {})
        await program.ask()
        assert program.health() == ("200 OK", {"one": "running"})
        await sleep(11 * MINUTE)
        assert program.health() == ("200 OK", {"one": "unloaded, idle since 1970-01-01T00:00:00Z"})
        program.loads.broken = "the disk is gone"
        with pytest.raises(ModelLoadError, match="the disk is gone"):
            await program.ask()
        assert program.health() == ("503 Service Unavailable", {"one": "can't be loaded, 1 times"})

    virtually(tmp_path, test)


def test_who_asks_a_model_that_does_not_come_back_is_told_that_it_can_not_be_loaded(tmp_path: Path) -> None:
    async def test(program: Program) -> None:
        service = FakeService(Limits(2000, typing_every=0.0))
        await program.ask()
        await sleep(11 * MINUTE)
        program.loads.broken = "the disk is gone"
        async with Delivery(program.bridge.bot("a"), service.chat, service.limits, clock=LoopClock()) as delivery:
            await delivery.accept(program.message("hello"))
            await delivery.settled()
            [shown] = service.shown(HERE.id)
        assert shown.startswith("Sorry, the model can't be loaded right now.")
        assert "disk" not in shown

    virtually(tmp_path, test)


def test_metrics_say_which_models_are_loaded_and_since_when_others_are_idle(tmp_path: Path) -> None:
    loaded, idle = "chatbridge_model_loaded", "chatbridge_model_idle_since_timestamp_seconds"

    async def test(program: Program) -> None:
        await sleep(30)
        await program.ask()
        assert await program.number(f'{loaded}{{model="one"}}') == 1
        assert await program.number(f'{loaded}{{model="two"}}') == 0
        assert await program.number(f'{idle}{{model="one"}}') is None
        await sleep(11 * MINUTE)
        assert await program.number(f'{loaded}{{model="one"}}') == 0
        assert await program.number(f'{idle}{{model="one"}}') == 30
        assert await program.number(f'{idle}{{model="two"}}') is None, "it was never loaded"
        assert program.loaded == [], "who counts models uses none"

    virtually(tmp_path, test)


def test_a_changed_bots_yaml_holds_for_a_model_that_is_idle_already(tmp_path: Path) -> None:
    async def test(program: Program) -> None:
        await program.ask()
        await sleep(5 * MINUTE)
        settings = program.source.current
        models = {name: replace(model, idle_minutes=4) for name, model in settings.models.items()}
        program.source.change(replace(settings, models=models))
        await sleep(1)
        assert program.loaded == []
        program.source.change(replace(settings, models={"two": models["two"]}))
        assert program.health() == ("200 OK", {}), "what is gone is not told of"

    virtually(tmp_path, test)
