"""Runs a bridge as a service does: with its monitor, its lag watched, and an end that lets answers end.

Puts the pieces of this folder together for `chatbridge run`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from chatbridge.bridge import Bridge
from chatbridge.errors import PluginError
from chatbridge.operations.lag import LoopLag
from chatbridge.operations.logs import Redactor, secrets_of
from chatbridge.operations.metrics import CONTENT_TYPE, Metrics
from chatbridge.operations.monitor import Page, serving
from chatbridge.plugins.manager import Plugins

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


async def serve(config: Path, bots: Iterable[str], redactor: Redactor) -> None:
    """Serve the bots of a bots.yaml until they end, or the program is told to.

    The first SIGTERM lets answers end for as long as `drain` says, the second one does not.
    """
    from chatbridge.config.source import SettingsSource

    lag = LoopLag()
    metrics, missing = _metrics(lag)
    plugins = Plugins([metrics] if metrics is not None else [])
    source = SettingsSource.of_file(config, plugins)
    redactor.learn(secrets_of(source.current))
    address = source.current.monitor

    def changed() -> None:
        redactor.learn(secrets_of(source.current))
        if source.current.monitor != address:
            log.warning("`monitor` has changed in %s; that takes a restart", config)

    source.on_change(changed)
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(Bridge(source, plugins, config=str(config)))
        if metrics is not None:
            metrics.bridge = bridge
        at_work = bridge.services.stirred, lambda: any(one.in_hand or one.queued for one in bridge.deliveries)
        watching = asyncio.create_task(lag.run(*at_work))
        stack.callback(watching.cancel)

        async def health() -> Page:
            return _health(bridge, lag)

        async def numbers() -> Page:
            if metrics is None:
                return Page(missing.encode(), "501 Not Implemented", "text/plain; charset=utf-8")
            return Page(await metrics.text(), content_type=CONTENT_TYPE)

        if address:
            port = await stack.enter_async_context(serving(address, {"/healthz": health, "/metrics": numbers}))
            log.info("the monitor serves /healthz and /metrics at %s:%d", address.rpartition(":")[0], port)
        _end_by_signal(bridge)
        await bridge.run(bots)


def _metrics(lag: LoopLag) -> tuple[Metrics | None, str]:
    try:
        return Metrics(lag), ""
    except PluginError as error:
        return None, str(error)


def _health(bridge: Bridge, lag: LoopLag) -> Page:
    """200 while every bot is served and every model that was asked for runs, or is idle and unloaded; else 503.

    Tells nothing that a stranger should not know.
    """
    states = dict(bridge.states)
    models = bridge.models.states()
    good = all(state in ("running", "ended") for state in states.values())
    good = good and all(state == "running" for name, state in models.items() if name not in bridge.models.unloaded())
    told = {
        "status": "ok" if good else "failing",
        "bots": states,
        "models": sorted(bridge.models.loaded()),
        "model_states": models,
        "in_hand": sum(delivery.in_hand for delivery in bridge.deliveries),
        "damaged_rows": bridge.store.damaged_rows,
        "event_loop_lag_seconds": round(lag.worst, 4),
    }
    return Page(json.dumps(told).encode(), "200 OK" if good else "503 Service Unavailable")


def _end_by_signal(bridge: Bridge) -> None:
    task = asyncio.current_task()
    assert task is not None
    told = 0

    def end() -> None:
        nonlocal told
        told += 1
        if told == 1:
            log.info("ending: answers under way get up to %g s", bridge.settings.drain)
            task.cancel()
        else:
            log.info("ending at once; what is not answered goes on at the next start")
            for delivery in bridge.deliveries:
                delivery.stop_waiting()

    if sys.platform != "win32":  # where SIGTERM ends a process at once, and Ctrl-C is all there is
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
