"""The command line. One file per command, imported when it is run, so that `--help` stays quick."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from chatbridge.cli import streams
from chatbridge.cli.lazy_group import LazyGroup
from chatbridge.cli.names import COMMANDS
from chatbridge.cli.output import FAILED, echo, echo_json
from chatbridge.errors import ChatbridgeError

_JSON = "chatbridge.json"
"""Under which a context remembers that a program reads the output."""


@contextmanager
def _told_as_json(wanted: bool) -> Iterator[None]:
    """Where `--json` was given an error is JSON on stdout, too; the exit status is the same as without."""
    try:
        yield
    except (ChatbridgeError, click.ClickException, click.Abort, OSError) as error:
        if not wanted or (isinstance(error, OSError) and error.filename is None):  # the output itself may be broken
            raise
        told, code = str(error), 1
        if isinstance(error, click.ClickException):
            told, code = error.format_message(), error.exit_code
        elif isinstance(error, click.Abort):
            told = "not confirmed; nothing was done"
        elif isinstance(error, OSError):
            told = f"{error.filename}: {error.strerror or error}"
        echo_json({"error": told})
        sys.exit(code)


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
        as_json = "--json" in args  # of which the parser takes what it has read
        try:
            with _told_as_json(as_json):
                context = super().make_context(info_name, args, parent, **extra)
        except OSError as error:
            raise _SystemFailure(error) from error
        context.meta[_JSON] = as_json
        return context

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _told_as_json(ctx.meta.get(_JSON, False)):
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
@click.version_option(package_name="chatbridge-core", message="%(prog)s %(version)s")
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
