"""`chatbridge run`: starts the bots of bots.yaml and serves them until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Literal

import click

from chatbridge.cli.output import echo
from chatbridge.errors import ChatbridgeError, ConfigError, PluginError, StoreInUse

EX_TEMPFAIL, EX_CONFIG = 75, 78


@click.command("run")
@click.argument("bots", nargs=-1)
@click.option("-c", "--config", type=click.Path(path_type=Path), default="bots.yaml", help="The configuration file.")
@click.option("-v", "--verbose", is_flag=True, help="Log everything, also what the models' libraries print.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", help="Lines for people, or JSON for programs."
)
@click.option("--dry-run", is_flag=True, help="Load the models, say what would start, and end; call no chat service.")
def command(
    bots: tuple[str, ...], config: Path, verbose: bool, log_format: Literal["text", "json"], dry_run: bool
) -> None:
    """Start the BOTS of bots.yaml, or all of them.

    Runs until Ctrl-C or SIGTERM, which let answers under way end; a changed bots.yaml is followed without a restart.

    \b
    Exits
      0   when it was told to end, or all its bots have ended
      1   by an error that may pass
      75  where another program has the store
      78  where a person has to mend something first: bots.yaml, a token
    """
    from chatbridge.operations.logs import Redactor, set_up

    redactor = Redactor()
    set_up(log_format, logging.DEBUG if verbose else logging.INFO, redactor)
    if dry_run:
        sys.exit(asyncio.run(_dry_run(config, bots)))
    from chatbridge.operations.service import serve

    try:
        asyncio.run(serve(config, bots, redactor))
    except (KeyboardInterrupt, asyncio.CancelledError):
        echo("stopped", err=True)
    except ChatbridgeError as error:
        echo(f"chatbridge: {error}", err=True)
        sys.exit(_exit_code(error))
    except Exception:  # Python's own traceback would tell secrets
        logging.getLogger("chatbridge").critical("ended by a mistake in the program, or in a plugin", exc_info=True)
        sys.exit(1)


def _exit_code(error: ChatbridgeError) -> int:
    """By the conventions of sysexits.h, so that a supervisor knows when another start would help."""
    if isinstance(error, ConfigError | PluginError):
        return EX_CONFIG
    return EX_TEMPFAIL if isinstance(error, StoreInUse) else 1


async def _dry_run(config: Path, bots: tuple[str, ...]) -> int:
    from chatbridge.bridge import checked_names
    from chatbridge.config.reader import load
    from chatbridge.operations.dry_run import dry_run
    from chatbridge.plugins.manager import Plugins

    plugins = Plugins()
    settings = load(config, plugins)
    lines, failed = await dry_run(settings, plugins, checked_names(settings, bots))
    for line in lines:
        echo(line)
    echo("everything is ready" if not failed else f"{failed} of these would fail", err=True)
    return 1 if failed else 0
