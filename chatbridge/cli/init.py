"""`chatbridge init`: asks for what a first bots.yaml needs, writes it, and puts the token where git does not look.

Knows no service: what a token and an id look like is asked of the frontend. Loads no model and calls nobody.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatbridge.cli.output import echo
from chatbridge.errors import ConfigError, PluginError
from chatbridge.suggest import did_you_mean

if TYPE_CHECKING:
    from chatbridge.config.settings import ModelSettings
    from chatbridge.plugins.frontend import FrontendType
    from chatbridge.plugins.manager import Plugins

SECRETS = "secrets"
"""The folder for tokens, beside bots.yaml."""


@click.command("init")
@click.argument("file", type=click.Path(path_type=Path), default=Path("bots.yaml"))
@click.option("-s", "--service", help="The chat service: discord, telegram, or repl for this terminal.")
@click.option(
    "--token-from", type=click.File("r"), help="Read the token from this file, `-` for a pipe; asked unless given."
)
@click.option(
    "-m", "--model", help="The model: a file, a folder or a name of `chatbridge model list`; the bundled guide."
)
@click.option("-t", "--template", help="The prompt template, for a model that does not say which one it wants.")
@click.option("--admin", "admins", multiple=True, metavar="ID", help="Who may give admin commands; may be repeated.")
@click.option("--language", type=click.Choice(["auto", "en", "zh"]), help="What the bot's own sentences are in.")
def command(
    file: Path,
    service: str | None,
    token_from: Any,
    model: str | None,
    template: str | None,
    admins: tuple[str, ...],
    language: str | None,
) -> None:
    """Write a first FILE (bots.yaml unless given): asks what no option says.

    A token goes into a file of its own, which its owner alone may read and git ignores. Nothing that is there already
    is written over.
    """
    from chatbridge.plugins.manager import Plugins

    if file.exists():
        raise ConfigError(
            f"{file} is there already; name another file, as `chatbridge init my.yaml`, or change that one by hand"
        )
    plugins = Plugins()
    asking = sys.stdin.isatty() and token_from is None
    frontend = _frontend(service, plugins, asking=asking)
    secret = _token_key(frontend)
    token = _token(frontend, secret, token_from, asking=asking) if secret else ""
    found = _with_template(_model(model, plugins, asking=asking), template, plugins, asking=asking)
    if admins and not secret:
        raise click.BadParameter(f"{frontend.name} has no people but the one who sits there", param_hint="--admin")
    people = _admins(frontend, admins, asking=asking) if secret else ()
    place = f"{SECRETS}/{frontend.name}.{secret}" if secret else ""
    text = _text(file, frontend, found, language or "auto")
    if secret:
        text += _of_service(secret, place, people)
    _write(file, text, place, token)
    from chatbridge.config.reader import load

    load(file, plugins)  # what is written holds, or the error says why not
    of_file = "" if file == Path("bots.yaml") else f" -c {shlex.quote(str(file))}"
    start = f"chatbridge {'run' if secret else 'repl'}{of_file}"
    echo(f"{file} is written. `chatbridge check{of_file}` looks it over; `{start}` starts it.")


def _frontend(service: str | None, plugins: Plugins, *, asking: bool) -> FrontendType:
    from chatbridge.plugins.packages import FIRST_PARTY

    known = sorted({*plugins.frontends, *FIRST_PARTY["frontend"]})
    if service is None:
        service = _asked("service", "--service", f"Chat service ({', '.join(known)})", "repl", asking=asking)
    return plugins.require_frontend(service.strip().lower())


def _token_key(frontend: FrontendType) -> str:
    """The required secret of a service; "" where it has none."""
    from pydantic import SecretStr

    fields = frontend.options.model_fields.items()
    return next((key for key, field in fields if field.is_required() and field.annotation is SecretStr), "")


def _token(frontend: FrontendType, key: str, given: Any, *, asking: bool) -> str:
    """A token that the service's own check takes; somebody at a terminal may try again."""
    token: str
    while True:
        if given is not None:
            token = given.read().strip()
        elif asking:
            token = click.prompt(f"The bot's {key} (it is not shown)", hide_input=True, err=True).strip()
        else:
            raise click.UsageError(
                f"the {key} of {frontend.name} is missing: give it by --token-from FILE, or - for a pipe"
            )
        if not (wrong := _wrong(frontend, key, token)):
            return token
        if given is not None or not asking:
            raise ConfigError(f"the {key} can't be used: {wrong}")
        echo(f"  {wrong}", err=True)


def _wrong(frontend: FrontendType, key: str, token: str) -> str:
    from pydantic import ValidationError

    try:
        frontend.options.model_validate({key: token})
    except ValidationError as error:
        return next(
            (one["msg"].removeprefix("Value error, ") for one in error.errors() if one["loc"][:1] == (key,)), ""
        )
    return ""


def _model(word: str | None, plugins: Plugins, *, asking: bool) -> ModelSettings | None:
    """The model, or None for the bundled one."""
    from chatbridge.cli.named_model import find_model
    from chatbridge.config.reader import default_settings

    while True:
        wanted = word
        if wanted is None and asking:
            question = "Model: a file, a folder, a name of `chatbridge model list`, or guide, the small bundled one"
            wanted = str(click.prompt(question, default="guide", err=True)).strip()
        if wanted in (None, "guide"):
            return None
        try:
            return find_model(wanted, default_settings(plugins), plugins)
        except (click.BadParameter, ConfigError, PluginError) as error:
            if word is not None:
                raise
            echo(f"  {error}", err=True)


def _with_template(
    model: ModelSettings | None, template: str | None, plugins: Plugins, *, asking: bool
) -> ModelSettings | None:
    """The model with a template: without one that fits, each message to it would fail."""
    known = plugins.templates
    while model is not None and (template or not model.template):
        name = template
        if name is None and asking:
            question = (
                f"{model.name} does not say which prompt template it wants. Which (`chatbridge templates` lists them)"
            )
            name = str(click.prompt(question, err=True)).strip()
        if name is None:
            raise click.UsageError(f"{model.name} does not say which prompt template it wants: give it by --template")
        if name in known:
            return replace(model, template=name)
        wrong = f"there is no template {name!r}{did_you_mean(name, known)}"
        if template is not None:
            raise click.BadParameter(wrong, param_hint="--template")
        echo(f"  {wrong}", err=True)
    return model


def _admins(frontend: FrontendType, given: Sequence[str], *, asking: bool) -> Sequence[str]:
    people = list(given)
    while not given and asking:
        typed = str(
            click.prompt("Your id there, to give admin commands (empty for nobody)", default="", err=True)
        ).strip()
        if not typed:
            break
        people = [one for one in typed.replace(",", " ").split() if one]
        if not any(wrong := [frontend.check_id(one) for one in people]):
            break
        echo(f"  {next(filter(None, wrong))}", err=True)
    for one in people:
        if wrong_id := frontend.check_id(one):
            raise click.BadParameter(f"{one!r} is no id of {frontend.name}: {wrong_id}", param_hint="--admin")
    return people


def _asked(what: str, option: str, question: str, default: str, *, asking: bool) -> str:
    if not asking:
        raise click.UsageError(f"the {what} is missing: give it by {option}")
    return str(click.prompt(question, default=default, err=True))


def _text(file: Path, frontend: FrontendType, model: ModelSettings | None, language: str) -> str:
    name = model.name if model else "guide"
    entry = {"backend": "numpy"} if model is None else {"backend": model.backend, **_options(file, model)}
    if model is not None and model.template:
        entry["template"] = model.template
    lines = [
        "# What else can be said here: the README of chatbridge. `chatbridge check` lists every mistake in this file.",
        "models:",
        f"  {_scalar(name)}:",
        *(f"    {key}: {_scalar(value)}" for key, value in entry.items()),
        "",
        "defaults:",
        f"  model: {_scalar(name)}",
        f"  language: {language}            # of the bot's own sentences: auto, en or zh",
        "  reply_to: mentions         # in groups: mentions, always or never",
        "",
        "bots:",
        f"  {frontend.name}:",
        f"    frontend: {frontend.name}",
    ]
    return "\n".join(lines) + "\n"


def _of_service(secret: str, place: str, admins: Sequence[str]) -> str:
    ids = ", ".join(map(_scalar, admins))
    people = (
        f"    admins: {{users: [{ids}]}}"
        if admins
        else "    # admins: {users: [YOUR-ID]}   # who may give admin commands"
    )
    return f"    {secret}_file: {place}\n{people}\n"


def _options(file: Path, model: ModelSettings) -> dict[str, str]:
    """What was found out about the model; paths beside the file are written as such."""
    options = model.options.model_dump(exclude_unset=True, exclude_none=True)
    base = file.absolute().parent
    paths = {key: Path(value).absolute() for key, value in options.items() if isinstance(value, Path)}
    near = {key: str(path.relative_to(base) if base in path.parents else path) for key, path in paths.items()}
    return {**{key: str(value) for key, value in options.items()}, **near}


def _scalar(value: object) -> str:
    import yaml

    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).removesuffix("\n...\n").strip()
    )


def _write(file: Path, text: str, place: str, token: str) -> None:
    from chatbridge.store.private import open_private

    try:
        if token:
            kept = file.absolute().parent / place
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            ignored = kept.parent / ".gitignore"
            if not ignored.exists():
                ignored.write_text("*\n", encoding="utf-8")
            if kept.exists():
                raise ConfigError(f"{kept} is there already; delete it, if its token is not in use")
            with os.fdopen(open_private(kept), "w", encoding="utf-8") as opened:
                opened.write(f"{token}\n")
        with file.open("x", encoding="utf-8") as written:
            written.write(text)
    except OSError as error:
        raise ConfigError(f"{error.filename}: this can't be written: {error.strerror}; name another folder") from error
