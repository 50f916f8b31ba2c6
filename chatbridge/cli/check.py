"""`chatbridge check`: reads bots.yaml and prints every complaint as file:line:column."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from pydantic import BaseModel

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
        echo(_count(len(str(error).splitlines()), file), err=True)
        sys.exit(1)
    missing = [place for model in settings.models.values() for place in _missing(f"models.{model.name}", model.options)]
    for place, path in missing:
        echo(f"{file}: there is nothing at `{place}`, {path}; put the model there, or name another place")
    if missing:
        echo(_count(len(missing), file), err=True)
        sys.exit(1)
    from chatbridge.model_tools.planning.machine import this_machine
    from chatbridge.model_tools.planning.planner import too_large

    for name, plan in too_large(settings.models.values(), plugins.backends, this_machine()):
        echo(f"{file}: the model {name} will not fit: {plan.shortage()}; {plan.advice()}", err=True)
    for model in settings.models.values():
        if model.when_idle:
            echo(f"{file}: the model {model.name} is {model.when_idle}")
    models, bots = len(settings.models), len(settings.bots)
    more = "" if bots else "; a bot is written under `bots`, and `chatbridge repl` talks without one"
    echo(f"{file}: good; {models} model{'s' * (models != 1)}, {bots} bot{'s' * (bots != 1)}{more}")


def _count(mistakes: int, file: Path) -> str:
    return f"{mistakes} {'mistake' if mistakes == 1 else 'mistakes'} in {file}"


def _missing(at: str, options: object) -> Iterator[tuple[str, Path]]:
    """Keys called `path` in a model's options, also in lists, that name what is not there."""
    if isinstance(options, list | tuple):
        for n, one in enumerate(options):
            yield from _missing(f"{at}[{n}]", one)
    elif isinstance(options, Mapping):
        for name, one in options.items():
            yield from _missing(f"{at}.{name}", one)
    elif isinstance(options, BaseModel):
        for key in type(options).model_fields:
            value = getattr(options, key)
            if key == "path" and isinstance(value, str | Path):
                # A relative one is a name of a hub: paths in bots.yaml have been made absolute.
                if Path(value).is_absolute() and not Path(value).exists():
                    yield f"{at}.path", Path(value)
            else:
                yield from _missing(f"{at}.{key}", value)
