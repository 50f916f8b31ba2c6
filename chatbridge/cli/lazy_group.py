"""A group of commands that knows them by name, and imports the file of one when it is used. Knows no command."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click

from chatbridge.suggest import did_you_mean


class LazyGroup(click.Group):
    """`package.NAME` has the command NAME, as `command`. `own`: the line of help of each, so that none is imported for
    it."""

    package: str
    own: Mapping[str, str]

    def others(self) -> Mapping[str, click.Command]:
        """Commands from elsewhere; none of them takes a name of `own`."""
        return {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.own, *self.others()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.own:
            return self.others().get(cmd_name)
        command = import_module(f"{self.package}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own version asks each command for its help line and would import them all.
        others = {name: command.get_short_help_str(limit=70) for name, command in self.others().items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted({**others, **self.own}.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"{error.message.rstrip('.')}{hint or '.'}", ctx) from None
