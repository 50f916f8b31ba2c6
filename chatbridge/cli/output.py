"""Prints what a command has to say: what strangers wrote never steers the terminal, and our own colours stay.

The one way to the output for our commands. Knows no command.
"""

from __future__ import annotations

import click

from chatbridge.operations.printable import as_json, escaped


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


def echo_json(value: object, indent: int | None = 2) -> None:
    """Print a value as JSON for programs. Raises: OSError."""
    click.echo(as_json(value, indent))
