"""Prints what a command has to say: what strangers wrote never steers the terminal, and our own colours stay.

The one way to the output for our commands. Knows no command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from chatbridge.operations.printable import as_json, escaped

if TYPE_CHECKING:
    from chatbridge.model_files.description import Problem


FAILED = "chatbridge.failed"
"""The key in click's `Context.meta`, which nested commands share, of that a command has told an error."""


class Styled(str):
    """Text with our own colours in it, in which everything else was escaped."""


def styled(text: str, *, fg: str | None = None, bold: bool | None = None) -> Styled:
    """The text, escaped, in a colour."""
    return Styled(click.style(escaped(text), fg=fg, bold=bold))


def joined(*pieces: str) -> Styled:
    """The pieces as one text; those that are not styled are escaped."""
    return Styled("".join(piece if isinstance(piece, Styled) else escaped(piece) for piece in pieces))


def echo(*pieces: str, err: bool = False, color: bool | None = None) -> None:
    """Print the pieces as one line, or several. `color`: whether colours stay; unless given, where it is a terminal.

    Raises: OSError where the output can't be written.
    """
    click.echo(joined(*pieces), err=err, color=color)


def echo_error(text: str) -> None:
    """Print a line that begins with "error:", for what is wrong while the command goes on; it ends with 1 then.

    Raises: OSError where the output can't be written.
    """
    echo(f"error: {text}", err=True)
    if (context := click.get_current_context(silent=True)) is not None:
        context.meta[FAILED] = True


def echo_problem(problem: Problem) -> None:
    """The same for what an inspection has found, which may be a warning or a note."""
    if problem.severity == "error":
        echo_error(problem.words)
    else:
        echo(f"{problem.severity}: {problem.words}", err=True)


def echo_json(value: object, indent: int | None = 2) -> None:
    """Print a value as JSON for programs. Raises: OSError."""
    click.echo(as_json(value, indent))
