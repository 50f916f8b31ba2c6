"""`chatbridge model …`: one file for each command, imported when it is used. Knows their names alone."""

from __future__ import annotations

from importlib import import_module

import click

from chatbridge.suggest import did_you_mean

COMMANDS = {
    "convert": "Make another form of a model: GGUF, Hugging Face's, Meta's, int4, …",
    "decrypt": "Decrypt weights that BELLE published as XOR with the original LLaMA.",
    "inspect": "Tell what lies at a path, from headers and shapes alone.",
    "list": "List models that can be fetched by name, and those that were.",
    "merge": "Merge LoRA adapters into their model, vocabularies and all.",
    "plan": "Tell whether a model fits, where it goes, and what would make it fit.",
    "pull": "Fetch a model: by a name of the list, from Hugging Face, or by an address.",
    "quantize": "Make a GGUF file smaller by llama.cpp's quantiser, and compare both.",
}


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"chatbridge.cli.model.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"{error.message.rstrip('.')}{hint or '.'}", ctx) from None


@click.group("model", cls=_Group)
def command() -> None:
    """Fetch, look at and convert model files: what they are, what is wrong, what runs them."""
