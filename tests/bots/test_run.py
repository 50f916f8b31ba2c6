"""Bots being served: their models are loaded at once, whom they listen to, and which messages they answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from chatbridge import (
    Author,
    Bot,
    Bridge,
    Channel,
    ChannelSettings,
    ConfigError,
    FrontendType,
    Message,
    Options,
    Plugins,
    ReplyStream,
    hookimpl,
)
from chatbridge.config import Access, BotSettings, ModelSettings, Settings, SettingsSource
from chatbridge.delivery.clock import LoopClock
from chatbridge.testing import ToyOptions, plugin_of, run_virtually, toy_backend

from .conftest import ALONE, ROOM, first_words


async def _wait(options: Options, bot: Bot) -> None:
    await asyncio.Event().wait()


pytestmark = pytest.mark.usefixtures("warm_workers")

WAITING = FrontendType("waiting", Options, "does nothing", _wait)


def settings_of(folder: Path, plugins: Plugins, bot: BotSettings, toy: ToyOptions | None = None) -> Settings:
    models = {"toy": ModelSettings("toy", "toy", toy or ToyOptions(), template="chatml")}
    return Settings(models, plugins.templates, folder / "store", bots={bot.name: bot})


async def test_models_are_loaded_before_anybody_asks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plugins = Plugins([plugin_of(backends=[toy_backend], frontends=[WAITING])], discover=False)
    settings = settings_of(tmp_path, plugins, BotSettings("b", "waiting", Options()))
    loading = asyncio.Event()
    source = SettingsSource(settings)
    async with Bridge(source, plugins, on_progress=lambda name, share, doing: loading.set()) as bridge:
        running = asyncio.create_task(bridge.run())
        await loading.wait()
        async with bridge.models.use(settings.models["toy"]):
            assert list(bridge.models.loaded()) == ["toy"]
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_model_that_can_not_be_loaded_is_told_of_at_once(tmp_path: Path) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                told.put_nowait(record.getMessage())

    plugins = Plugins([plugin_of(backends=[toy_backend], frontends=[WAITING])], discover=False)
    broken = ToyOptions(fail_load="the letters are gone")
    settings = settings_of(tmp_path, plugins, BotSettings("b", "waiting", Options()), broken)
    listener = Listener()
    logging.getLogger("chatbridge").addHandler(listener)
    try:
        async with Bridge(SettingsSource(settings), plugins) as bridge:
            running = asyncio.create_task(bridge.run())
            assert "the letters are gone" in await told.get()
            assert not running.done(), "the bot itself goes on, and answers with that error"
            running.cancel()
    finally:
        logging.getLogger("chatbridge").removeHandler(listener)


@pytest.mark.parametrize("how", ["returns", "fails", "is cancelled from within", "leaves the program"])
async def test_a_frontend_that_ends_in_whatever_way_is_started_again(tmp_path: Path, how: str) -> None:
    starts: asyncio.Queue[None] = asyncio.Queue()

    async def run(options: Options, bot: Bot) -> None:
        starts.put_nowait(None)
        match how:
            case "fails":
                raise ConnectionError
            case "is cancelled from within":
                raise asyncio.CancelledError
            case "leaves the program":
                raise SystemExit(0)

    plugins = Plugins(
        [plugin_of(backends=[toy_backend], frontends=[FrontendType("brief", Options, "", run)])], discover=False
    )
    settings = settings_of(tmp_path, plugins, BotSettings("b", "brief", Options()))
    async with Bridge(SettingsSource(settings), plugins) as bridge:
        running = asyncio.create_task(bridge.run(restart_after=0.001))
        for _ in range(3):
            await starts.get()
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


def test_waits_between_starts_double_up_to_a_limit_until_it_has_been_well_for_longer(tmp_path: Path) -> None:
    async def main() -> list[float]:
        now, starts = asyncio.get_running_loop().time, list[float]()

        async def run(options: Options, bot: Bot) -> None:
            starts.append(now())
            await LoopClock().sleep({11: 300.0, 12: 301.0}.get(len(starts), 0.0))
            raise ConnectionError

        frontend = FrontendType("brief", Options, "", run)
        plugins = Plugins([plugin_of(backends=[toy_backend], frontends=[frontend])], discover=False)
        settings = settings_of(tmp_path, plugins, BotSettings("b", "brief", Options()))
        async with Bridge(SettingsSource(settings), plugins) as bridge:
            serving = asyncio.create_task(bridge._serve("b", settings.bots["b"], 1.0))
            while len(starts) < 14:
                await LoopClock().sleep(0.5)
            await LoopClock().sleep(1)
            assert bridge.states == {"b": "failing"}
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
        return starts

    starts = run_virtually(main())
    gaps = [round(after - before) for before, after in pairwise(starts)]
    assert gaps == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300 + 300, 301 + 1, 2]


async def test_a_wrong_token_is_said_once_and_the_other_bots_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tries, tried, others, leave = 0, asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wrong(options: Options, bot: Bot) -> None:
        nonlocal tries
        tries += 1
        tried.set()
        raise ConfigError("the service does not know this token")

    async def good(options: Options, bot: Bot) -> None:
        others.set()
        await leave.wait()

    frontends = [FrontendType("wrong", Options, "", wrong), FrontendType("good", Options, "", good, ends=True)]
    plugins = Plugins([plugin_of(backends=[toy_backend], frontends=frontends)], discover=False)
    settings = settings_of(tmp_path, plugins, BotSettings("w", "wrong", Options()))
    settings = replace(settings, bots={**settings.bots, "g": BotSettings("g", "good", Options())})
    async with Bridge(SettingsSource(settings), plugins) as bridge:
        running = asyncio.create_task(bridge.run(restart_after=0.001))
        await others.wait()
        await tried.wait()
        await asyncio.sleep(0)  # the task that failed goes on
        assert bridge.states == {"w": "stopped", "g": "running"}
        leave.set()
        with pytest.raises(ConfigError, match="no bot is left:\nthe service does not know this token"):
            await running
    assert tries == 1
    (told,) = [record for record in caplog.records if "stays away" in record.getMessage()]
    assert told.exc_info is None


def message(channel: Channel, **more: object) -> Message:
    fields: dict[str, object] = {"id": "1", "author": Author("ann", "Ann"), "text": "hello", **more}
    return Message(channel=channel, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("allow", "deny", "heard"),
    [
        (Access(), Access(), True),
        (Access(users={"ann"}), Access(), True),
        (Access(users={"bob"}), Access(), False),
        (Access(channels={"room"}), Access(), True),
        (Access(channels={"other"}), Access(), False),
        (Access(users={"ann"}, channels={"other"}), Access(), False),
        (Access(), Access(users={"ann"}), False),
        (Access(users={"ann"}), Access(users={"ann"}), False),
        (Access(), Access(channels={"room"}), False),
    ],
)
async def test_who_is_listened_to(tmp_path: Path, allow: Access, deny: Access, heard: bool) -> None:
    plugins = Plugins([plugin_of(backends=[toy_backend], frontends=[WAITING])], discover=False)
    bot = BotSettings("b", "waiting", Options(), ChannelSettings(reply_to="always"), allow=allow, deny=deny)
    async with Bridge(SettingsSource(settings_of(tmp_path, plugins, bot)), plugins) as bridge:
        for text in ("hello", "/help"):
            for channel in (ROOM, replace(ROOM, id="thread", parent="room")):
                answer = await bridge.bot("b").receive(message(channel, text=text))
                assert (answer is not None) == heard


@pytest.mark.parametrize(
    ("reply_to", "channel", "more", "answered"),
    [
        ("mentions", ROOM, {}, False),
        ("mentions", ROOM, {"mentions_bot": True}, True),
        ("mentions", ALONE, {}, True),
        ("always", ROOM, {}, True),
        ("never", ROOM, {"mentions_bot": True}, False),
        ("never", ALONE, {}, False),
        ("always", ROOM, {"author": Author("r", "Robot", is_bot=True)}, False),
    ],
)
async def test_which_messages_are_answered(
    tmp_path: Path, reply_to: str, channel: Channel, more: dict[str, object], answered: bool
) -> None:
    plugins = Plugins([plugin_of(backends=[toy_backend], frontends=[WAITING])], discover=False)
    defaults = ChannelSettings.model_validate({"reply_to": reply_to})
    bot = BotSettings("b", "waiting", Options(), defaults)
    async with Bridge(SettingsSource(settings_of(tmp_path, plugins, bot)), plugins) as bridge:
        assert isinstance(await bridge.bot("b").receive(message(channel, **more)), ReplyStream) == answered


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_plugin_may_decide_what_is_answered(tmp_path: Path, wanted: bool) -> None:
    class Decides:
        @hookimpl
        def should_reply(self, message: Message) -> bool | None:
            return wanted if "hello" in message.text else None

    plugins = Plugins([plugin_of(backends=[toy_backend], frontends=[WAITING]), Decides()], discover=False)
    bot = BotSettings("b", "waiting", Options())
    async with Bridge(SettingsSource(settings_of(tmp_path, plugins, bot)), plugins) as bridge:
        ask: Callable[..., object] = bridge.bot("b").receive
        assert (await ask(message(ROOM)) is not None) == wanted  # type: ignore[misc]
        assert await ask(message(ROOM, text="else")) is None  # type: ignore[misc]


async def test_a_changed_model_is_loaded_anew_and_the_old_one_finishes_its_answers(tmp_path: Path) -> None:
    plugins = Plugins([plugin_of(backends=[toy_backend], frontends=[WAITING])], discover=False)
    bot = BotSettings("b", "waiting", Options(), ChannelSettings(reply_to="always"))
    endless = settings_of(tmp_path, plugins, bot, ToyOptions(eos_every=10**6))
    source = SettingsSource(endless)
    async with Bridge(source, plugins) as bridge:
        turn = await bridge.bot("b").receive(message(ALONE))
        assert isinstance(turn, ReplyStream)
        chunks = aiter(turn)
        await first_words(chunks)
        old = bridge.models.loaded()["toy"]
        source.current = settings_of(tmp_path, plugins, bot, ToyOptions(eos_every=3))
        other = await bridge.bot("b").receive(message(ROOM, id="2"))
        assert isinstance(other, ReplyStream)
        finishes = [chunk.finish async for chunk in other]
        assert finishes[-1] is not None
        assert bridge.models.loaded()["toy"] is not old
        rest = [chunk async for chunk in chunks]
        assert rest[-1].finish is not None
        assert rest[-1].finish.reason == "length", "the old model finishes what it had begun"
