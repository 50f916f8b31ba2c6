"""What in bots.yaml refers to something else: names of models and templates, adapters, options, commands of aliases.

Knows where names stand, and what there is; reads no value by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatbridge.config.nodes import Document, KeyPath
from chatbridge.config.settings import BotSettings, ChannelSettings, ModelSettings
from chatbridge.prompts.template import Template
from chatbridge.suggest import did_you_mean

if TYPE_CHECKING:
    from chatbridge.plugins.manager import Plugins


@dataclass(frozen=True, slots=True)
class References:
    """The names in a document, and what they may name. Mistakes are reported to the document."""

    document: Document
    plugins: Plugins
    models: Mapping[str, ModelSettings]
    templates: Mapping[str, Template]

    def check(self, defaults: ChannelSettings, bots: Mapping[str, BotSettings]) -> None:
        """Look every name up."""
        self._check_names()
        self._check_channels(defaults, bots)

    def _check_names(self) -> None:
        """Check that each model and template that is named anywhere exists."""
        models = {**mapping_at(self.document, "models"), **self.models}
        known = {"model": models, "template": {**mapping_at(self.document, "templates"), **self.templates}}
        for key_path in self._key_paths_of_names():
            name, names = mapping_at(self.document, *key_path[:-1]).get(key_path[-1]), known[str(key_path[-1])]
            if isinstance(name, str) and name not in names and key_path not in self.document.failed:
                have = did_you_mean(name, names) or f" (known: {', '.join(sorted(names))})"
                report_name(self.document, key_path, f"there is no {key_path[-1]} {name!r}{have}", names)

    def _check_channels(self, defaults: ChannelSettings, bots: Mapping[str, BotSettings]) -> None:
        """Check that adapters and options belong to the model and template there, and aliases stand for commands."""
        for name, model in self.models.items():
            self._check_options(("models", name), model.template_options, model.template)
        top = ChannelSettings(model=next(iter(self.models), "")).merged(defaults)
        places: list[tuple[KeyPath, ChannelSettings, ChannelSettings]] = [(("defaults",), defaults, top)]
        for name, bot in bots.items():
            own = top.merged(bot.defaults)
            places.append((("bots", name, "defaults"), bot.defaults, own))
            for id, channel in bot.channels.items():
                places.append((("bots", name, "channels", id), channel, own.merged(channel)))
        for at, written, merged in places:
            self._check_channel(at, written, merged)
            used = self.models.get(merged.model)
            template = merged.template or (used.template if used else None)
            self._check_options(at, written.template_options, template)

    def _check_options(self, at: KeyPath, options: Mapping[str, Any], name: str | None) -> None:
        """Check that a template with options is one that has variables: a Jinja template."""
        if options and (found := self.templates.get(name or "")) is not None and found.jinja is None:
            message = f"the template {name!r} has no variables; only Jinja templates have, such as `template: model`"
            self.document.report(self.document.at_key((*at, "template_options")), message)

    def _check_channel(self, at: KeyPath, written: ChannelSettings, merged: ChannelSettings) -> None:
        commands = self.plugins.chat_commands
        for alias, command in written.aliases.items():
            name = command[1:].partition(" ")[0].lower()
            if name not in commands:
                message = f"there is no command {name!r}{did_you_mean(name, commands)}"
                report_name(self.document, (*at, "aliases", alias), message, commands)
        model = self.models.get(merged.model)
        if written.adapter is None or model is None:
            return
        known = model.adapters
        if written.adapter not in known:
            message = f"the model {model.name!r} has no adapter {written.adapter!r}"
            have = did_you_mean(written.adapter, known) or f" (it has: {', '.join(sorted(known)) or 'none'})"
            report_name(self.document, (*at, "adapter"), message + have, known)

    def _key_paths_of_names(self) -> Iterator[tuple[str, ...]]:
        for name in mapping_at(self.document, "models"):
            yield ("models", name, "template")
        settings: list[tuple[str, ...]] = [("defaults",)]
        for bot in mapping_at(self.document, "bots"):
            settings.append(("bots", bot, "defaults"))
            settings += [("bots", bot, "channels", id) for id in mapping_at(self.document, "bots", bot, "channels")]
        for at in settings:
            yield (*at, "model")
            yield (*at, "template")


def mapping_at(document: Document, *key_path: str | int) -> dict[str, Any]:
    """What stands at `key_path`, where that is a mapping; else an empty one."""
    value = document.value
    for key in key_path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def report_name(document: Document, key_path: KeyPath, message: str, known: Iterable[str]) -> None:
    """Report a wrong name. `message` repeats it, and so is left out where a variable, maybe a secret, gave it."""
    secret = key_path in document.substituted
    document.report(document.at(key_path), one_of(str(key_path[-1]), known) if secret else message)


def one_of(key: str, known: Iterable[str]) -> str:
    """What a key has to name, where its value is not repeated."""
    return f"`{key}` has to name one of: {', '.join(sorted(known)) or 'none is there'}"
