"""`chatbridge repl`: talk to a model in this terminal. Finds the settings and hands the talk to the `repl` frontend."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatbridge.cli.model.making import named_place
from chatbridge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chatbridge.config.source import SettingsSource
    from chatbridge.plugins.manager import Plugins


@click.command("repl")
@click.option(
    "-c",
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The bots.yaml to use. Unless given, ./bots.yaml if there is one, else the bundled model.",
)
@click.option(
    "-m",
    "--model",
    metavar="NAME|FILE|FOLDER",
    callback=named_place,
    help="The model to talk to: a name in bots.yaml, a file or folder, or a name of `chatbridge model list`.",
)
@click.option("-t", "--template", help="The prompt template to use.")
@click.option("--system", metavar="TEXT", help="The system text to use.")
@click.option("-p", "--prompt", help="Answer this one message and exit.")
@click.option("-n", "--max-tokens", type=click.IntRange(min=1), help="The longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 always takes the likeliest token.")
@click.option("--seed", type=click.IntRange(min=0), help="Equal seeds repeat an answer exactly.")
@click.option(
    "--resume",
    metavar="[ID]",
    is_flag=False,
    flag_value="latest",
    help="Go on with the latest conversation, or with that of this id.",
)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), help="Whether to use colours.")
@click.option("--no-color", "color", flag_value="never", help="The same as --color never.")
def command(
    config: Path | None,
    model: str | None,
    template: str | None,
    system: str | None,
    prompt: str | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    resume: str | None,
    color: str | None,
) -> None:
    """Talk to a model in this terminal.

    Lines from a pipe are answered one by one, as plain text. Exits 0 if all went well, 1 where something was not
    answered, 2 for a wrong command line, 130 on Ctrl-C.
    """
    from chatbridge.plugins.manager import Plugins

    plugins = Plugins()
    source = _source(config, plugins)
    if model is not None:
        from chatbridge.cli.named_model import find_model

        found = find_model(model, source.current, plugins)
        if found.name not in source.current.models:
            source.add_model(found)
        model = found.name
    _check_name("template", template, source.current.templates)
    for name, text in (("system", system), ("prompt", prompt)):
        if text is not None and not text.strip():
            raise click.BadParameter("there is no text", param_hint=f"--{name}")
    words = {"model": model, "template": template, "system": system}
    commands = [f"/{name} {value}" for name, value in words.items() if value]
    numbers = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    commands += [f"/set {name} {value}" for name, value in numbers.items() if value is not None]
    given = {"prompt": prompt, "resume": resume, "color": color, "commands": tuple(commands) or None}
    try:
        asyncio.run(_talk(source, plugins, {key: value for key, value in given.items() if value is not None}))
    except KeyboardInterrupt:
        sys.exit(130)


async def _talk(source: SettingsSource, plugins: Plugins, given: dict[str, Any]) -> None:
    from chatbridge.bridge import Bridge

    frontend = plugins.require_frontend("repl")
    bots = source.current.bots.values()
    own = next((bot for bot in bots if bot.frontend == frontend.name), None)
    written = own.options.model_dump(exclude_unset=True) if own else {}
    if commands := given.get("commands"):
        given["commands"] = (*written.get("commands", ()), *commands)
    options = frontend.options.model_validate({**written, **given})
    # Beside bots that run, and other terminals: a talk has its own conversation, and needs no inbox and no outbox.
    async with Bridge(source, plugins, shared=True) as bridge:
        watch = asyncio.create_task(source.watch())  # a talk may last; what the file says may change
        try:
            await frontend.run(options, bridge.bot(own.name if own else "terminal"))
        finally:
            watch.cancel()


def _source(config: Path | None, plugins: Plugins) -> SettingsSource:
    from chatbridge.config.reader import default_settings
    from chatbridge.config.source import SettingsSource
    from chatbridge.store.private import private_folder

    path = config or Path("bots.yaml")
    if config is not None or path.exists():
        return SettingsSource.of_file(path, plugins)
    settings = default_settings(plugins)
    folder = settings.store.parent
    if not folder.is_absolute():  # without a home, `~` would become a folder here
        raise ConfigError(f"there is no home folder to keep conversations in; {_ELSEWHERE}")
    try:
        private_folder(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: conversations can't be kept there: {error.strerror}; {_ELSEWHERE}") from error
    return SettingsSource(settings)


_ELSEWHERE = "set HOME to a folder that you can write to, or write a bots.yaml with `store: FILE`"


def _check_name(what: str, name: str | None, known: Iterable[str]) -> None:
    from chatbridge.suggest import did_you_mean

    if name is not None and name not in known:
        hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
        raise click.BadParameter(f"there is no {what} {name!r}{hint}", param_hint=f"--{what}")
