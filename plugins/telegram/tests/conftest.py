"""A stand-in Telegram, and a bot that serves it; everything that was said is judged when a test ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chatbridge_telegram.bot import run
from chatbridge_telegram.options import TelegramOptions

from chatbridge import Bot, BotSettings, Bridge, ChannelSettings
from chatbridge.testing import (
    HurriedClock,
    ScriptedBackend,
    TelegramServer,
    bridge_with,
    channel_settings,
    log_lines,
    running,
    scripted,
)
from chatbridge.testing.telegram.limits import Limits
from chatbridge.testing.wire.clock import Clock

HURRY = 50
"""How much faster than ours the time of the stand-in and of delivery passes, where it matters."""


@pytest.fixture
async def telegram(caplog: pytest.LogCaptureFixture) -> AsyncIterator[TelegramServer]:
    """With its real limits, in hurried time. No call comes inside a penalty, and no log line has a token in it."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("markdown_it").setLevel(logging.INFO)
    async with TelegramServer(clock=Clock(lambda: time.monotonic() * HURRY), webhook_retry=0.01) as server:
        yield server
        assert server.calls.early == []
        token = server.bot.token
    assert log_lines(caplog, token) == []


@pytest.fixture
async def roomy(caplog: pytest.LogCaptureFixture) -> AsyncIterator[TelegramServer]:
    """The same without limits, for tests of something else."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("markdown_it").setLevel(logging.INFO)
    async with TelegramServer(limits=Limits.generous(), webhook_retry=0.01) as server:
        yield server
        token = server.bot.token
    assert log_lines(caplog, token) == []


def options_for(server: TelegramServer, **more: object) -> TelegramOptions:
    """The options of a bot of this server."""
    return TelegramOptions(token=server.bot.token, api_url=server.api_url, file_url=server.file_url, **more)


@asynccontextmanager
async def serving(server: TelegramServer, bot: Bot, **more: object) -> AsyncIterator[asyncio.Task[None]]:
    """The frontend, until the context is left; what ends it before is raised."""
    work = run(options_for(server, **more), bot, clock=HurriedClock(HURRY), drain=0.2, hold=5, back_off=0.01)
    async with running(work) as task:
        yield task


@asynccontextmanager
async def talking(
    server: TelegramServer,
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
    bots = [BotSettings("bot", "telegram", options_for(server), **(own or {}))]
    path = store / "store"
    async with (
        bridge_with(scripted(backend), path, defaults=chosen, plugins=plugins, bots=bots) as bridge,
        serving(server, bridge.bot("bot"), **more),
    ):
        yield bridge
