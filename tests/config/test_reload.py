"""A changed bots.yaml in a running program: it is followed, and a broken one is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatbridge import Bot, Bridge, Channel, ConfigError, FrontendType, Options, Plugins, Secret, hookimpl
from chatbridge.config import Settings, SettingsSource
from chatbridge.testing import ScriptedBackend, plugin_of, scripted

LIMIT = 100
"""Seconds that no test takes: whoever waits longer waits for what will never be."""

MODELS = "models: {m: {backend: scripted}, n: {backend: scripted}}\n"


class FakeOptions(Options):
    label: str = "any"
    token: Secret | None = None


class FakeFrontend:
    """A frontend whose bots do what the test says; `events` tells what becomes of them."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        self.endings: dict[str, asyncio.Queue[Exception | None]] = {}
        self.error_at_stop: Exception | None = None

    @hookimpl
    def register_frontends(self) -> Iterable[FrontendType]:
        return [FrontendType("fake", FakeOptions, "a service for tests", self.run, ends=True)]

    async def run(self, options: FakeOptions, bot: Bot) -> None:
        self.events.put_nowait(("starts", bot.name, options.label))
        try:
            if (ending := await self.endings.setdefault(bot.name, asyncio.Queue()).get()) is not None:
                raise ending
        finally:
            self.events.put_nowait(("stops", bot.name, options.label))
            if self.error_at_stop is not None:
                raise self.error_at_stop

    async def next(self, count: int = 1) -> set[tuple[str, str, str]]:
        """The next things that happen, in no order."""
        async with asyncio.timeout(LIMIT):
            return {await self.events.get() for _ in range(count)}

    def quiet(self) -> bool:
        return self.events.empty()


@pytest.fixture
def frontend() -> FakeFrontend:
    return FakeFrontend()


@pytest.fixture
def plugins(frontend: FakeFrontend) -> Plugins:
    return Plugins([plugin_of(backends=[scripted(ScriptedBackend())]), frontend], discover=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bots.yaml"
    path.write_text(MODELS, encoding="utf-8")
    return path


def write(path: Path, text: str) -> None:
    path.write_text(MODELS + text, encoding="utf-8")


def replace(path: Path, text: str) -> None:
    """As editors do it: another file takes the name."""
    other = path.with_suffix(".new")
    write(other, text)
    other.replace(path)


class Errors(logging.Handler):
    """Lets a test wait for a line of the log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put_nowait(record.getMessage())

    async def next(self) -> str:
        async with asyncio.timeout(LIMIT):
            return await self.lines.get()


@pytest.fixture
def errors() -> Iterable[Errors]:
    handler = Errors()
    logging.getLogger("chatbridge").addHandler(handler)
    yield handler
    logging.getLogger("chatbridge").removeHandler(handler)


@asynccontextmanager
async def watched(source: SettingsSource, tick: float = 1.0) -> AsyncIterator[Callable[[], Any]]:
    """The source, with its watch going; gives a function that waits for the next change."""
    changed, started = asyncio.Event(), asyncio.Event()
    source.on_change(changed.set)

    async def change() -> Settings:
        async with asyncio.timeout(LIMIT):
            await changed.wait()
        changed.clear()
        return source.current

    watch = asyncio.create_task(source.watch(started, tick=tick))
    try:
        async with asyncio.timeout(LIMIT):
            await started.wait()
        yield change
    finally:
        watch.cancel()
        await asyncio.wait([watch])
        assert watch.cancelled(), watch.exception()


# --- the source ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change_file", [write, replace])
async def test_a_change_is_followed(path: Path, plugins: Plugins, change_file: Callable[[Path, str], None]) -> None:
    source = SettingsSource.of_file(path, plugins)
    async with watched(source, tick=0.05) as change:
        for model in ("n", "m", "n"):
            change_file(path, f"defaults: {{model: {model}, system: {model}}}")
            assert (await change()).channel("b", Channel("c")).model == model


async def test_a_broken_file_changes_nothing_until_it_is_mended(path: Path, plugins: Plugins, errors: Errors) -> None:
    write(path, "defaults: {system: old}")
    source = SettingsSource.of_file(path, plugins)
    async with watched(source, tick=0.05) as change:
        before = source.current
        replace(path, "defaults: {sytsem: new}")
        assert await errors.next() == (
            "the old settings stay, since the changed file has mistakes:\n"
            f"{path}:2:12: there is no key 'sytsem' under `defaults`; did you mean 'system'?"
        )
        assert source.current is before
        replace(path, "defaults: {system: new}")
        assert (await change()).defaults.system == "new"
        assert errors.lines.empty(), "one mistake is told of once"


async def test_a_file_that_is_gone_and_comes_back(path: Path, plugins: Plugins, errors: Errors) -> None:
    source = SettingsSource.of_file(path, plugins)
    async with watched(source, tick=0.05) as change:
        await asyncio.to_thread(path.unlink)
        assert "this file can't be read" in await errors.next()
        write(path, "defaults: {system: back}")
        assert (await change()).defaults.system == "back"


async def test_the_file_of_a_text_is_watched_too(path: Path, plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    persona = tmp_path / "secrets/persona.txt"
    persona.write_text("kind", encoding="utf-8")
    write(path, "defaults: {system_file: secrets/persona.txt}")
    source = SettingsSource.of_file(path, plugins)
    assert source.current.defaults.system == "kind"
    async with watched(source, tick=0.05) as change:
        persona.write_text("stern", encoding="utf-8")
        assert (await change()).defaults.system == "stern"


async def test_a_missing_file_of_a_text_is_waited_for(
    path: Path, plugins: Plugins, tmp_path: Path, errors: Errors
) -> None:
    source = SettingsSource.of_file(path, plugins)
    async with watched(source, tick=0.05) as change:
        replace(path, "defaults: {system_file: later/persona.txt}")
        assert "`system_file`: this file can't be read" in await errors.next()
        (tmp_path / "later").mkdir()
        (tmp_path / "later/persona.txt").write_text("late", encoding="utf-8")
        assert (await change()).defaults.system == "late"


async def test_what_changed_before_the_watch_began_is_not_missed(path: Path, plugins: Plugins) -> None:
    source = SettingsSource.of_file(path, plugins)
    write(path, "defaults: {system: early}")
    async with watched(source, tick=0.05) as change:
        assert (await change()).defaults.system == "early"


async def test_a_change_of_comments_is_none(path: Path, plugins: Plugins) -> None:
    source = SettingsSource.of_file(path, plugins)
    changes: list[None] = []
    source.on_change(lambda: changes.append(None))
    before = source.current
    write(path, "# nothing new\n")
    assert source.reload()
    assert source.current is before
    assert changes == []


async def test_settings_without_a_file_stay(plugins: Plugins, path: Path) -> None:
    settings = SettingsSource.of_file(path, plugins).current
    source = SettingsSource(settings)
    assert source.reload()
    watch = asyncio.create_task(source.watch())
    done, _ = await asyncio.wait([watch], timeout=0)
    assert not done
    watch.cancel()
    assert source.current is settings


def test_a_file_that_is_broken_from_the_start_is_an_error(path: Path, plugins: Plugins) -> None:
    write(path, "stor: x")
    with pytest.raises(ConfigError, match="did you mean 'store'"):
        SettingsSource.of_file(path, plugins)


# --- the bots that it brings and takes -----------------------------------------------------------------------------


@asynccontextmanager
async def running(
    path: Path, plugins: Plugins, *names: str
) -> AsyncIterator[tuple[SettingsSource, asyncio.Task[None]]]:
    """The bots of a file, served until the test ends."""
    source = SettingsSource.of_file(path, plugins)
    async with Bridge(source, plugins) as bridge:
        task = asyncio.create_task(bridge.run(names, restart_after=0))
        try:
            yield source, task
        finally:
            task.cancel()
            await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None, task.exception()


def bots(**labels: str) -> str:
    entries = (f"  {name}: {{frontend: fake, label: {label}}}\n" for name, label in labels.items())
    return "bots:\n" + "".join(entries)


async def test_bots_come_and_go_with_the_file(path: Path, plugins: Plugins, frontend: FakeFrontend) -> None:
    write(path, bots(a="one", b="two"))
    async with running(path, plugins) as (source, _):
        assert await frontend.next(2) == {("starts", "a", "one"), ("starts", "b", "two")}
        write(path, bots(b="two", c="four"))
        source.reload()
        assert await frontend.next(2) == {("stops", "a", "one"), ("starts", "c", "four")}
        write(path, bots(b="three", c="four"))
        source.reload()
        assert await frontend.next(2) == {("stops", "b", "two"), ("starts", "b", "three")}
        write(path, bots(b="three", c="four") + "defaults: {system: other}\n")
        source.reload()
        write(path, bots(a="one", b="three", c="four"))
        source.reload()
        assert await frontend.next() == {("starts", "a", "one")}
        assert frontend.quiet(), "no bot was stopped by a change of what is read for each message"
    assert await frontend.next(3) == {("stops", "a", "one"), ("stops", "b", "three"), ("stops", "c", "four")}


async def test_the_watch_itself_brings_them(path: Path, plugins: Plugins, frontend: FakeFrontend) -> None:
    write(path, bots(a="one"))
    async with running(path, plugins):
        assert await frontend.next() == {("starts", "a", "one")}
        replace(path, bots(a="one", b="two"))
        assert await frontend.next() == {("starts", "b", "two")}


async def test_a_changed_secret_restarts_its_bot(
    path: Path, plugins: Plugins, frontend: FakeFrontend, tmp_path: Path
) -> None:
    (tmp_path / "token.txt").write_text("one", encoding="utf-8")
    write(path, "bots: {a: {frontend: fake, token_file: token.txt}}")
    async with running(path, plugins) as (source, _):
        await frontend.next()
        (tmp_path / "token.txt").write_text("two", encoding="utf-8")
        source.reload()
        assert await frontend.next(2) == {("stops", "a", "any"), ("starts", "a", "any")}


async def test_a_broken_file_leaves_the_bots_alone(path: Path, plugins: Plugins, frontend: FakeFrontend) -> None:
    write(path, bots(a="one"))
    async with running(path, plugins) as (source, _):
        await frontend.next()
        write(path, "bots: {b: {frontend: fak}}")
        assert not source.reload()
        write(path, bots(a="one", b="two"))
        assert source.reload()
        assert await frontend.next() == {("starts", "b", "two")}


async def test_only_named_bots_are_served(path: Path, plugins: Plugins, frontend: FakeFrontend) -> None:
    write(path, bots(a="one", b="two"))
    async with running(path, plugins, "b") as (source, _):
        assert await frontend.next() == {("starts", "b", "two")}
        write(path, bots(a="one", b="three", c="four"))
        source.reload()
        assert await frontend.next(2) == {("stops", "b", "two"), ("starts", "b", "three")}
        assert frontend.quiet()


async def test_a_frontend_that_fails_is_started_again_and_stops_no_other(
    path: Path, plugins: Plugins, frontend: FakeFrontend, errors: Errors
) -> None:
    write(path, bots(a="one", b="two"))
    async with running(path, plugins):
        await frontend.next(2)
        for _ in range(3):
            frontend.endings["a"].put_nowait(OSError("no network"))
            assert await frontend.next(2) == {("stops", "a", "one"), ("starts", "a", "one")}
            assert "bot a: fake ended by an error; starting again in 0 s" in await errors.next()
        assert frontend.quiet(), "the other one ran on"


async def test_it_ends_when_all_bots_have_ended(path: Path, plugins: Plugins, frontend: FakeFrontend) -> None:
    write(path, bots(a="one", b="two"))
    async with running(path, plugins) as (_, task):
        await frontend.next(2)
        frontend.endings["a"].put_nowait(None)
        assert await frontend.next() == {("stops", "a", "one")}
        assert not task.done()
        frontend.endings["b"].put_nowait(None)
        async with asyncio.timeout(LIMIT):
            await task


async def test_a_file_without_bots_is_waited_out(path: Path, plugins: Plugins, frontend: FakeFrontend) -> None:
    write(path, bots(a="one"))
    async with running(path, plugins) as (source, task):
        await frontend.next()
        write(path, "bots: {}")
        source.reload()
        assert await frontend.next() == {("stops", "a", "one")}
        write(path, bots(b="two"))
        source.reload()
        assert await frontend.next() == {("starts", "b", "two")}
        assert not task.done()


async def test_a_frontend_that_fails_while_it_is_stopped_is_not_started_again(
    path: Path, plugins: Plugins, frontend: FakeFrontend, errors: Errors
) -> None:
    write(path, bots(a="one", b="two"))
    async with running(path, plugins) as (source, _):
        await frontend.next(2)
        frontend.error_at_stop = OSError("the connection was lost")
        write(path, bots(b="two", c="four"))
        source.reload()
        assert await frontend.next(2) == {("stops", "a", "one"), ("starts", "c", "four")}
        assert await errors.next() == "bot a: fake failed while it was stopped"


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("", [], "bots.yaml has no bots; add one under `bots:`, or talk to a model by `chatbridge repl`"),
        (bots(family="one"), ["famly"], "bots.yaml has no bot 'famly'; did you mean 'family'?"),
    ],
)
async def test_there_has_to_be_a_bot(path: Path, plugins: Plugins, text: str, names: list[str], message: str) -> None:
    write(path, text)
    async with Bridge(SettingsSource.of_file(path, plugins), plugins) as bridge:
        with pytest.raises(ConfigError) as caught:
            await bridge.run(names)
    assert str(caught.value) == message
