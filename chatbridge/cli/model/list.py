"""`chatbridge model list`: the names of the catalogue, with size, licence, template, and whether each was fetched."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import click

from chatbridge.cli.output import echo, echo_json, joined, styled


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of what is told of each."
)
def command(as_json: bool, language: Literal["en", "zh"]) -> None:
    """List models that can be fetched by name, and those that were fetched.

    `chatbridge model pull NAME` fetches one, `chatbridge repl -m NAME` talks to it, and in bots.yaml it is `models:
    {mine: {catalogue: NAME}}`. Sizes are of what is fetched.
    """
    from chatbridge.model_tools.fetching.catalogue import catalogue
    from chatbridge.model_tools.fetching.pull import fetched_folders
    from chatbridge.operations.folders import models_folder

    models = models_folder()
    entries = catalogue()
    here = {name: one.path(models) if models else None for name, one in entries.items()}
    if as_json:
        echo_json(
            [{**asdict(one), "path": str(path) if (path := here[name]) else None} for name, one in entries.items()]
        )
        return
    for name, one in entries.items():
        state = "fetched" if here[name] else "by request" if one.request else one.words
        echo(
            joined(
                styled(f"{name:<20}", bold=True), f"{state:<15}{one.licence}; {one.backend}, template {one.template}"
            )
        )
        echo(f"{'':<20}{one.summary[language]}")
    if models is None:
        echo("\nthere is no home folder to keep models in; CHATBRIDGE_MODELS may name one")
        return
    others = [folder for folder in fetched_folders(models) if folder.name not in entries]
    echo(f"\nfetched ones are in {models}" + (", and besides:" if others else ""))
    for folder in others:
        echo(f"  {folder.name}")
