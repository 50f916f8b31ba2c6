"""A group of commands that knows them by name, and imports the file of one when it is used. Knows no command."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click

from chatbridge.suggest import did_you_mean


class LazyGroup(click.Group):
    """`package.NAME` has the command NAME, as `command`."""

    package: str

    def helps(self) -> Mapping[str, str]:
        """The line of help of each command, so that none is imported for it."""
        raise NotImplementedError

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.helps())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.helps():
            return None
        command = import_module(f"{self.package}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own version asks each command for its help line and would import them all.
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self.helps().items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"{error.message.rstrip('.')}{hint or '.'}", ctx) from None
