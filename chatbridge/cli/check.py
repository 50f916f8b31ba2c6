"""`chatbridge check`: reads bots.yaml and prints every complaint as file:line:column."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from chatbridge.cli.output import echo
from chatbridge.errors import ConfigError


@click.command("check")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The same as FILE, as other commands have it.")
def command(file: Path | None, config: Path | None) -> None:
    """Check FILE (bots.yaml unless given) and list every complaint.

    Exits 0 where there is none, else 1. Says which models will not fit into this machine's memory, by their files'
    headers; that ends with 0 all the same. Tells which models are unloaded while nobody asks (`idle_minutes`). Loads no
    model and calls no chat service.
    """
    if file is not None and config is not None:
        raise click.UsageError("give one file: FILE and -c are the same")
    file = file or config or Path("bots.yaml")
    from chatbridge.config.reader import load
    from chatbridge.plugins.manager import Plugins

    plugins = Plugins()
    try:
        settings = load(file, plugins)
    except ConfigError as error:
        echo(str(error))
        count = len(str(error).splitlines())
        echo(f"{count} {'mistake' if count == 1 else 'mistakes'} in {file}", err=True)
        sys.exit(1)
    from chatbridge.model_tools.planning.machine import this_machine
    from chatbridge.model_tools.planning.planner import too_large

    for name, plan in too_large(settings.models.values(), plugins.backends, this_machine()):
        echo(f"{file}: the model {name} will not fit: {plan.shortage()}; {plan.advice()}", err=True)
    for model in settings.models.values():
        if model.when_idle:
            echo(f"{file}: the model {model.name} is {model.when_idle}")
    models, bots = len(settings.models), len(settings.bots)
    echo(f"{file}: good; {models} model{'s' * (models != 1)}, {bots} bot{'s' * (bots != 1)}")
