"""What `chatbridge repl -m` names: a model of the settings, a file or folder, or a name of the catalogue.

Looks at what is there and asks before it fetches; loads no model.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatbridge.cli.output import echo
from chatbridge.errors import ModelLoadError

if TYPE_CHECKING:
    from chatbridge.config.settings import ModelSettings, Settings
    from chatbridge.model_files.description import ModelDescription
    from chatbridge.model_tools.fetching.catalogue import CatalogueEntry
    from chatbridge.plugins.manager import Plugins


def find_model(word: str, settings: Settings, plugins: Plugins) -> ModelSettings:
    """The model that somebody means: of the settings, else what lies at the path, else by the catalogue.

    Raises click.BadParameter for a name that nothing has, and ModelLoadError or PluginError for what can't be run.
    """
    from chatbridge.model_tools.fetching.catalogue import catalogue, named

    is_path, in_catalogue = _exists(word), named(word)
    if word in settings.models:
        if is_path:
            echo(f"{word} is taken for the model of that name; for the file say -m ./{word}", err=True)
        return settings.models[word]
    if "://" in word:
        raise ModelLoadError(
            f"{word.partition('?')[0]}: fetch it first, by `chatbridge model pull`, and name its folder"
        )
    if is_path or any(separator in word for separator in ("/", os.sep)):
        if in_catalogue:
            echo(
                f"{word} lies here, and is taken; the catalogue's {word} is meant where nothing of that name does",
                err=True,
            )
        return _at_path(Path(word).expanduser(), settings, plugins)
    if in_catalogue:
        return _of_catalogue(in_catalogue, plugins)
    raise _unknown(word, [*settings.models, *catalogue()], list(settings.models))


def _exists(word: str) -> bool:
    try:
        return Path(word).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # no system has such a name, or there is no such home
        return False


def _at_path(path: Path, settings: Settings, plugins: Plugins) -> ModelSettings:
    """What lies there, by the backend and the preset that an inspection finds. Raises ModelLoadError, PluginError."""
    from chatbridge.model_files.inspect import inspect_model
    from chatbridge.model_files.running import BASE, chosen_backend, entry_for, example_for, name_for

    runs = {backend.name: backend.runs for backend in plugins.backends.values() if backend.runs}
    found = inspect_model(path, runs)
    if not found.sound or not found.backends:
        raise ModelLoadError("\n".join([f"{found.path}: it can't be talked to", *_problems(found)]))
    for line in _problems(found, "warning"):
        echo(line.strip(), err=True)
    backend = chosen_backend(found, plugins.backends)
    plugins.require_backend(backend)  # says what to install
    entry = entry_for(found, backend)
    if entry["path"] == BASE or (found.layout == "gguf-adapter" and not _exists(entry["path"])):
        raise ModelLoadError(
            f"{found.path}: this is an adapter, and does not say where the model is that it was trained on; say it in "
            f"bots.yaml:\n{example_for(found, backend)}"
        )
    name = name_for(found)
    while name in settings.models:
        name += "-file"
    return _settings(name, entry, found.preset, plugins)


def _of_catalogue(entry: CatalogueEntry, plugins: Plugins) -> ModelSettings:
    """One that was fetched, or is after a yes. Raises ModelLoadError, PluginError."""
    from chatbridge.operations.folders import models_folder

    plugins.require_backend(entry.backend)  # before anybody waits for gigabytes
    models = models_folder()
    path = entry.path(models) if models else None
    if path is None and not entry.request and sys.stdin.isatty() and sys.stdout.isatty():
        question = f"{entry.name} is not here yet. Fetch {entry.words} of {entry.source} ({entry.licence})?"
        if click.confirm(question, err=True):
            from chatbridge.cli.model.pull import fetch

            path = entry.path(fetch(entry.name).parent)
    if path is None:
        raise ModelLoadError(entry.missing)
    return _settings(entry.name, entry.keys(path), entry.template, plugins)


def _settings(name: str, entry: dict[str, Any], template: str, plugins: Plugins) -> ModelSettings:
    from pydantic import ValidationError

    from chatbridge.config.settings import ModelSettings

    backend = entry["backend"]
    options = {key: value for key, value in entry.items() if key not in ("backend", "template")}
    try:
        checked = plugins.require_backend(backend).options.model_validate(options)
    except ValidationError as error:
        raise ModelLoadError(f"{entry['path']}: the backend {backend!r} does not take it: {error}") from error
    return ModelSettings(name, backend, checked, template or None)


def _problems(found: ModelDescription, *severities: str) -> list[str]:
    return [
        f"  {problem.severity}: {problem.words}"
        for problem in found.problems
        if not severities or problem.severity in severities
    ]


def _unknown(word: str, known: list[str], own: list[str]) -> click.BadParameter:
    from chatbridge.suggest import did_you_mean

    hint = did_you_mean(word, known) or f"; known: {', '.join(own)}, and those of `chatbridge model list`"
    return click.BadParameter(f"there is no model {word!r}{hint}", param_hint="--model")
