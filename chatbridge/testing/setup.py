"""A bridge, or a worker, for tests in one call, on what a test hands in. Knows no file but the store's."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from chatbridge.bridge import Bridge
from chatbridge.config.bounds import HANG_TIMEOUT
from chatbridge.config.settings import BotSettings, ChannelSettings, ModelSettings, Settings
from chatbridge.config.source import SettingsSource
from chatbridge.engine.backend import Backend, BackendType
from chatbridge.hookspecs import hookimpl
from chatbridge.plugins.frontend import FrontendType
from chatbridge.plugins.manager import Plugins
from chatbridge.sampling import Sampling
from chatbridge.worker.backend import WorkerBackend

if TYPE_CHECKING:
    from chatbridge.bots.command import ChatCommand
    from chatbridge.model_tools.converter import Converter
    from chatbridge.prompts.template import Template


def plugin_of(
    *,
    backends: Iterable[BackendType] = (),
    frontends: Iterable[FrontendType] = (),
    templates: Iterable[Template] = (),
    chat_commands: Iterable[ChatCommand] = (),
    converters: Iterable[Converter] = (),
) -> object:
    """A plugin that offers these."""

    class Plugin:
        @hookimpl
        def register_backends(self) -> Iterable[BackendType]:
            return backends

        @hookimpl
        def register_frontends(self) -> Iterable[FrontendType]:
            return frontends

        @hookimpl
        def register_templates(self) -> Iterable[Template]:
            return templates

        @hookimpl
        def register_chat_commands(self) -> Iterable[ChatCommand]:
            return chat_commands

        @hookimpl
        def register_converters(self) -> Iterable[Converter]:
            return converters

    return Plugin()


@asynccontextmanager
async def bridge_with(
    backend: BackendType,
    store: Path,
    *,
    options: BaseModel | None = None,
    defaults: ChannelSettings | None = None,
    template: str = "alpaca",
    hang_timeout: float = HANG_TIMEOUT,
    plugins: Iterable[object] = (),
    bots: Iterable[BotSettings] = (),
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    shared: bool = False,
) -> AsyncIterator[Bridge]:
    """A bridge whose only model, `model`, is run by `backend`; it answers every message unless `defaults` say else.

    `hang_timeout`: seconds, see `ModelSettings`. `bots`: entries of bots.yaml, for bots that are not to have the
    defaults alone. `shared`: others may have the store open as well, see `Bridge`.
    """
    found = Plugins([plugin_of(backends=[backend]), *plugins], discover=False)
    given = options or backend.options()
    model = ModelSettings("model", backend.name, given, template=template, hang_timeout=hang_timeout)
    if defaults is None:
        defaults = ChannelSettings(reply_to="always", language="en", sampling=Sampling(max_tokens=10_000))
    settings = Settings({"model": model}, found.templates, store, defaults, {bot.name: bot for bot in bots})
    async with Bridge(SettingsSource(settings), found, clock=clock, monotonic=monotonic, shared=shared) as bridge:
        yield bridge


@asynccontextmanager
async def worker_with(backend: BackendType, options: BaseModel | None = None) -> AsyncIterator[Backend]:
    """The model of a backend with `load`, running in a worker process."""
    worker = WorkerBackend(backend, options or backend.options())
    await worker.start()
    try:
        yield worker
    finally:
        await worker.aclose()
