"""`chatbridge run`: starts the bots of bots.yaml and serves them until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

import click


@click.command("run")
@click.argument("bots", nargs=-1)
@click.option("-c", "--config", type=click.Path(path_type=Path), default="bots.yaml", help="The configuration file.")
@click.option("-v", "--verbose", is_flag=True, help="Log everything, also what the models' libraries print.")
def command(bots: tuple[str, ...], config: Path, verbose: bool) -> None:
    """Start the BOTS of bots.yaml, or all of them.

    Runs until Ctrl-C or SIGTERM; a changed bots.yaml is followed without a restart.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change of any file beside ours
    try:
        asyncio.run(_run(bots, config))
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("stopped", err=True)


async def _run(bots: tuple[str, ...], config: Path) -> None:
    from chatbridge.bridge import Bridge
    from chatbridge.config import SettingsSource
    from chatbridge.plugins import Plugins

    plugins = Plugins()
    source = SettingsSource.of_file(config, plugins)
    task = asyncio.current_task()
    assert task is not None
    if sys.platform != "win32":  # where SIGTERM ends a process at once, and Ctrl-C is all there is
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Bridge(source, plugins) as bridge:
        await bridge.run(bots)
