"""What all commands that make a model share: how they are written down, and what is told where they are stopped.

Knows no form of models.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatbridge.cli.output import echo


def command_line() -> str:
    """The command as it was given, for the report."""
    return shlex.join(("chatbridge", *sys.argv[1:]))


def word(path: Path) -> str:
    """A path as a word of a command that can be copied: none is taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


@contextmanager
def stoppable(output: Path) -> Iterator[None]:
    """On Ctrl-C say what is left, and what to do with it, and end with 130."""
    from chatbridge.model_tools.output import partial_name

    try:
        yield
    except KeyboardInterrupt:
        partial = partial_name(output)
        left = "nothing is left of it"
        if partial.exists():
            left = f"what is done is in {partial}: the same command goes on with it; delete it if you don't want to"
        echo(f"stopped; {left}", err=True)
        sys.exit(130)
