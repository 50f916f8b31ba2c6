"""A stand-in Discord, and a bot that serves it; everything that was said is judged when a test ends."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from chatbridge_discord.bot import run
from chatbridge_discord.options import DiscordOptions

from chatbridge import Bot, BotSettings, Bridge, ChannelSettings, Clock
from chatbridge.testing import (
    DiscordServer,
    HurriedClock,
    ScriptedBackend,
    bridge_with,
    channel_settings,
    log_lines,
    running,
    scripted,
)
from chatbridge.testing.discord.limits import Limits
from chatbridge.testing.discord.state import Message
from chatbridge.testing.wire.clock import Clock as ServerClock

HURRY = 50
"""How much faster than ours the time of the stand-in and of delivery passes, where it matters."""


@pytest.fixture
async def hasty(caplog: pytest.LogCaptureFixture) -> AsyncIterator[DiscordServer]:
    """With its real limits, in hurried time. No call comes inside a penalty, and no log line has a token in it."""
    async with DiscordServer(clock=ServerClock(lambda: time.monotonic() * HURRY)) as server:
        with quiet(caplog):
            yield server
        assert server.calls.early == []
        token = server.bot.token
    assert log_lines(caplog, rf"{re.escape(token)}|interaction\d{{10}}") == []


@pytest.fixture
async def roomy(caplog: pytest.LogCaptureFixture) -> AsyncIterator[DiscordServer]:
    """Without limits and in our time, for tests of something else."""
    async with DiscordServer(limits=Limits.generous()) as server:
        with quiet(caplog):
            yield server
        token = server.bot.token
    assert log_lines(caplog, rf"{re.escape(token)}|interaction\d{{10}}") == []


def quiet(caplog: pytest.LogCaptureFixture) -> object:
    """All of the log is looked at, but for what has nothing to do with it."""
    logging.getLogger("markdown_it").setLevel(logging.INFO)
    return caplog.at_level(logging.DEBUG)


def options_for(server: DiscordServer, **more: object) -> DiscordOptions:
    """The options of a bot of this server."""
    given = {"token": server.bot.token, "api_url": server.api_url, "gateway_url": server.gateway_url, **more}
    return DiscordOptions.model_validate(given)


@asynccontextmanager
async def serving(
    server: DiscordServer, bot: Bot, *, clock: Clock | None = None, library: Mapping[str, object] = {}, **more: object
) -> AsyncIterator[asyncio.Task[None]]:
    """The frontend, until the context is left; what ends it before is raised."""
    options = options_for(server, **more)
    about = {"guild_ready_timeout": 0.05, "identify_pause": 0.0} | dict(library)
    work = run(options, bot, clock=clock or HurriedClock(HURRY), drain=0.2, back_off=0.01, **about)
    async with running(work) as task:
        connected = asyncio.create_task(server.gateway.until_connected())
        await asyncio.wait({task, connected}, return_when=asyncio.FIRST_COMPLETED)
        connected.cancel()
        yield task


@asynccontextmanager
async def talking(
    server: DiscordServer,
    backend: ScriptedBackend,
    store: Path,
    *,
    defaults: ChannelSettings | None = None,
    plugins: Iterable[object] = (),
    own: Mapping[str, object] | None = None,
    **more: object,
) -> AsyncIterator[Bridge]:
    """A bridge with a scripted model, whose bot serves the stand-in; `own` are its settings, `more` its options."""
    chosen = channel_settings() if defaults is None else defaults
    backend.closed = False  # by the bridge that it served before
    async with bridge_with(scripted(backend), store / "store", defaults=chosen, plugins=plugins) as bridge:
        change(bridge, **(own or {}))
        async with serving(server, bridge.bot("bot"), **({"commands": "none"} | more)):
            yield bridge


def change(bridge: Bridge, **fields: object) -> None:
    """Other settings for the bot, as if bots.yaml had been edited."""
    known = bridge.settings.bots.get("bot") or BotSettings("bot", "discord", DiscordOptions(token="t"))
    bots = {"bot": replace(known, **fields)}
    bridge.source.change(replace(bridge.settings, bots=bots))


def names(message: Message) -> list[str]:
    """The custom ids of a message's buttons."""
    rows = [one for one in message.components if one["type"] == 1]
    return [button["custom_id"] for row in rows for button in row["components"]]


def whole(message: Message) -> bool:
    """Whether no more is to come: its buttons are not those of an answer that is being written."""
    return names(message) not in ([], ["stop"])
