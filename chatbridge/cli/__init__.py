"""The command line. One file per command, imported when it is run, so that `--help` stays quick."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from chatbridge.cli import streams
from chatbridge.cli.lazy_group import LazyGroup
from chatbridge.cli.names import COMMANDS
from chatbridge.cli.output import FAILED, echo
from chatbridge.errors import ChatbridgeError


class _Group(LazyGroup):
    """Our commands, and those of plugins."""

    package = "chatbridge.cli"
    own = COMMANDS

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except OSError as error:
            raise _SystemFailure(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
        except OSError as error:
            raise _SystemFailure(error) from error
        except KeyboardInterrupt:  # click says "Aborted!", and ends with 1, which means something else
            sys.exit(130)
        if ctx.meta.get(FAILED):
            sys.exit(1)
        return result

    def others(self) -> Mapping[str, click.Command]:
        """What plugins add through `register_commands`; a plugin can't take a name of ours."""
        if "plugins" not in self.__dict__:
            from chatbridge.plugins.manager import Plugins

            self.plugins = Plugins()
        return self.plugins.commands


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chatbridge", message="%(prog)s %(version)s")
def cli() -> None:
    """Put local language models into chat rooms: Discord, Telegram and this terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; our own errors are printed without a traceback and end with status 1.

    So do those of the system that nobody took, as a full disk; a reader of the output that has gone is no error.
    """
    streams.prepare()
    _take_ctrl_c()
    try:
        try:
            cli(arguments, prog_name="chatbridge")
        finally:
            streams.flush()
    except ChatbridgeError as error:
        with suppress(OSError):
            echo(f"chatbridge: {error}", err=True)
        sys.exit(1)
    except _SystemFailure as failure:
        sys.exit(streams.exit_code_of(failure.error))
    except OSError as error:
        sys.exit(streams.exit_code_of(error))
    finally:
        streams.abandon_broken()
    return 0


class _SystemFailure(Exception):
    """Carries an OSError past click, which takes some for its own and ends with statuses of its own."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _take_ctrl_c() -> None:
    """In a terminal Ctrl-C works, also where whoever started the program ignores it: a script's `&`, many services.

    Without a terminal it stays ignored, as `nohup` and `setsid` want it; SIGTERM ends the program there.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        return
    if threading.current_thread() is not threading.main_thread():
        return
    if any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        signal.signal(signal.SIGINT, signal.default_int_handler)
