"""From the text of bots.yaml to `Settings`, or to all errors in it at once, each with its line and column.

Knows the keys of bots.yaml and asks plugins for the keys that they add; runs nothing and loads no model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from chatbridge.config.diagnostics import no_key
from chatbridge.config.files import read_file
from chatbridge.config.keys import BotKeys, ModelKeys, TopKeys
from chatbridge.config.nodes import Document, KeyPath, parse
from chatbridge.config.settings import (
    Access,
    Admins,
    BotSettings,
    ChannelSettings,
    Keep,
    ModelSettings,
    Quota,
    Settings,
    Strangers,
)
from chatbridge.config.values import Values, file_keys
from chatbridge.errors import ConfigError, PluginError
from chatbridge.model_files.template_notes import REPORT
from chatbridge.model_tools.fetching.catalogue import catalogue, named
from chatbridge.operations.folders import models_folder
from chatbridge.plugins.manager import Plugins
from chatbridge.prompts.guard import gaps_of, unguarded
from chatbridge.prompts.jinja_renderer import JinjaLimits
from chatbridge.prompts.template import Template, resolve
from chatbridge.suggest import did_you_mean

if TYPE_CHECKING:
    from chatbridge.engine.backend import BackendType
    from chatbridge.plugins.frontend import FrontendType

K = TypeVar("K", "BackendType", "FrontendType")
P = TypeVar("P", Access, Admins, Keep, Quota, Strangers)

STORE = "chatbridge.sqlite3"
"""The database's name beside bots.yaml, unless `store` says otherwise."""


def load(
    path: Path,
    plugins: Plugins,
    environment: Mapping[str, str] | None = None,
    *,
    looked_at: set[Path] | None = None,
) -> Settings:
    """Read a configuration file. `environment` fills in `${NAME}`: `os.environ` unless given.

    `looked_at`: every file whose contents count is added to it, also those that can't be read.
    Raises: ConfigError with one line for each error, `file:line:column: message`.
    """
    looked_at = set() if looked_at is None else looked_at
    looked_at.add(path)
    try:
        data = read_file(path)
    except OSError as error:
        raise ConfigError(f"{path}:1:1: this file can't be read: {error.strerror}; name another one") from error
    environment = os.environ if environment is None else environment
    reader = _Reader(parse(data, environment), path, plugins, environment)
    settings = reader.settings()
    looked_at |= reader.files
    if diagnostics := sorted(set(reader.document.diagnostics)):
        lines = (f"{path}:{one.location.line}:{one.location.column}: {one.message}" for one in diagnostics)
        raise ConfigError("\n".join(lines))
    return settings


def default_settings(plugins: Plugins, store: Path | None = None) -> Settings:
    """The settings without any file: the bundled model `guide`, and a store in the user's own folder."""
    if store is None:
        import click

        store = Path(click.get_app_dir("chatbridge")) / STORE
    return Settings(_guide(plugins), plugins.templates, store)


def _guide(plugins: Plugins) -> dict[str, ModelSettings]:
    return {"guide": ModelSettings("guide", "numpy", plugins.require_backend("numpy").options())}


class _Reader:
    """Puts the settings together, and reports errors to `document` as it goes."""

    def __init__(self, document: Document, path: Path, plugins: Plugins, environment: Mapping[str, str]) -> None:
        self.document = document
        self._base = path.absolute().parent
        self._values = Values(document, self._base)
        self.files = self._values.files
        self._plugins = plugins
        self._environment = environment

    def settings(self) -> Settings:
        top = self._mapping((), self.document.value)
        self._keys((), top, TopKeys.model_fields)
        models = dict(self._entries("models", top, self._model))
        templates = self._templates(top)
        defaults = self._channel(("defaults",), top.get("defaults"))
        bots = dict(self._entries("bots", top, self._bot))
        if not top.get("models"):
            models = self._default_models()
        self._check_names(models, templates)
        self._check_channels(models, templates, defaults, bots)
        plain = ("store", "drain", "monitor", "template_seconds", "template_mib", "load_mib")
        own: dict[str, Any] = {key: top[key] for key in plain if key in top}
        checked = self._values.validated((), TopKeys, own) or TopKeys()
        keep = self._part(("keep",), top.get("keep"), Keep)
        variables = frozenset(self.document.variables)
        store = self._base / STORE if checked.store is None else checked.store
        limits = JinjaLimits(checked.template_seconds, checked.template_mib)
        more = (checked.drain, checked.monitor, limits, checked.load_mib, variables, keep)
        return Settings(models, templates, Path(store), defaults, bots, *more)

    # --- the parts of the file ---------------------------------------------------------------------------------

    def _default_models(self) -> dict[str, ModelSettings]:
        try:
            return _guide(self._plugins)
        except PluginError as error:
            if not self.document.diagnostics:
                self.document.report(self.document.at_key(("models",)), f"there are no models, and {error}")
            return {}

    def _model(self, name: str, at: KeyPath, entry: dict[str, Any]) -> ModelSettings | None:
        if "catalogue" in entry:
            if (filled := self._of_catalogue(at, entry)) is None:
                return None
            entry = filled
        backend = self._plugin(at, entry, "backend", self._plugins.backends, self._plugins.require_backend)
        # Which backend it is was looked up; what it says of that is not judged once more.
        own = {key: value for key, value in entry.items() if key in ModelKeys.model_fields}
        keys = self._values.validated(at, ModelKeys, {**own, "backend": ""})
        options = self._options(at, entry, ModelKeys, backend, "backend")
        if backend is None or keys is None or options is None:
            return None
        return ModelSettings(
            name,
            backend.name,
            options,
            keys.template,
            keys.sampling,
            keys.max_batch,
            keys.hang_timeout,
            keys.memory_limit,
            keys.kept_states,
            keys.template_options,
        )

    def _of_catalogue(self, at: KeyPath, entry: dict[str, Any]) -> dict[str, Any] | None:
        """An entry with what its `catalogue` stands for; None where errors were reported."""
        name, key_path = entry["catalogue"], (*at, "catalogue")
        found = named(name) if isinstance(name, str) else None
        models = models_folder(self._environment)
        path = found.path(models) if found and models else None
        if found and models:
            self.files.add(models / found.name / REPORT)  # it may come while the program runs
        if key_path in self.document.failed:
            return None
        if found is None:
            message = f"there is no model {name!r} in the catalogue{did_you_mean(str(name), catalogue())}"
            self._report_name(key_path, message, catalogue())
        elif "path" in entry:
            message = "`catalogue` is given, too; keep one of `catalogue` and `path`"
            self.document.report(self.document.at_key((*at, "path")), message)
        elif path is None:
            self.document.report(self.document.at(key_path), found.missing)
        else:
            return {**found.keys(path), **entry}
        return None

    def _bot(self, name: str, at: KeyPath, entry: dict[str, Any]) -> BotSettings | None:
        frontend = self._plugin(at, entry, "frontend", self._plugins.frontends, self._plugins.require_frontend)
        defaults = self._channel((*at, "defaults"), entry.get("defaults"))
        channels = {
            id: self._channel((*at, "channels", id), settings)
            for id, settings in self._mapping((*at, "channels"), entry.get("channels")).items()
        }
        allow, deny = (self._part((*at, key), entry.get(key), Access) for key in ("allow", "deny"))
        admins = self._part((*at, "admins"), entry.get("admins"), Admins)
        limits = self._part((*at, "limits"), entry.get("limits"), Quota)
        strangers = self._part((*at, "strangers"), entry.get("strangers"), Strangers)
        own: dict[str, Any] = {key: entry[key] for key in ("admin_commands", "pairing", "anonymous") if key in entry}
        keys = self._values.validated(at, BotKeys, {**own, "frontend": ""})
        options = self._options(at, entry, BotKeys, frontend, "frontend")
        if frontend is None:
            return None
        self._check_ids(frontend, at)
        if options is None or keys is None:
            return None
        self._check_admins(at, admins, keys)
        more = (admins, keys.admin_commands, keys.pairing, limits, keys.anonymous, strangers)
        return BotSettings(name, frontend.name, options, defaults, channels, allow, deny, *more)

    def _options(
        self,
        at: KeyPath,
        entry: dict[str, Any],
        own: type[BaseModel],
        plugin: BackendType | FrontendType | None,
        kind: str,
    ) -> BaseModel | None:
        """The plugin's keys of an entry, besides the core's `own` ones."""
        if plugin is None:
            return None
        entry = self._values.texts_from_files(at, entry, plugin.options)
        known = [*own.model_fields, *plugin.options.model_fields]
        self._keys(at, entry, known, f"for {kind} {plugin.name!r}", file_keys(plugin.options))
        theirs = {key: value for key, value in entry.items() if key in plugin.options.model_fields}
        return self._values.validated(at, plugin.options, theirs)

    def _channel(self, at: KeyPath, entry: Any) -> ChannelSettings:
        mapping = self._values.texts_from_files(at, self._mapping(at, entry), ChannelSettings)
        self._keys(at, mapping, ChannelSettings.model_fields, also=file_keys(ChannelSettings))
        known = {key: value for key, value in mapping.items() if key in ChannelSettings.model_fields}
        return self._values.validated(at, ChannelSettings, known) or ChannelSettings()

    def _part(self, at: KeyPath, entry: Any, kind: type[P]) -> P:
        """A part of a bot's entry that has keys of its own."""
        mapping = self._mapping(at, entry)
        self._keys(at, mapping, kind.model_fields)
        known = {key: value for key, value in mapping.items() if key in kind.model_fields}
        return self._values.validated(at, kind, known) or kind()

    def _templates(self, top: dict[str, Any]) -> dict[str, Template]:
        written = dict(self._entries("templates", top, self._template))
        failed = self._raw("templates").keys() - written.keys()
        presets = self._plugins.templates
        resolved: dict[str, Template] = {}

        def settle(name: str, above: tuple[str, ...]) -> None:
            """Resolve a template after the one that it extends, so that an error is reported once, where it is."""
            template = written[name]
            base = template.extends
            # It may carry the name of the preset that it changes; any other way back to itself is a circle.
            if base in above and not (base == name and name in presets):
                way = " > ".join((*above[above.index(base) :], base))
                key_path = ("templates", name, "extends")
                self._report_name(key_path, f"template {name!r} extends itself: {way}", presets)
                failed.add(name)
                return
            if base in written and base not in (name, *resolved, *failed):
                settle(base, (*above, base))
            known = {**presets, **written, **resolved, name: presets.get(name, template)}
            made = None if base in failed and base != name else self._resolved(name, template, known)
            if made is None:
                failed.add(name)
            else:
                resolved[name] = made

        for name in written:
            if name not in resolved and name not in failed:
                settle(name, (name,))
        return {**presets, **resolved}

    def _resolved(self, name: str, template: Template, known: dict[str, Template]) -> Template | None:
        if template.extends is not None and template.extends not in known:
            others = sorted(known.keys() - {name})
            have = did_you_mean(template.extends, others) or f" (known: {', '.join(others)})"
            message = f"there is no template {template.extends!r}{have}"
            self._report_name(("templates", name, "extends"), message, others)
            return None
        try:
            made = resolve(name, template, known)
        except ValidationError as error:
            self._values.report(("templates", name), Template, error)
            return None
        for gap in gaps_of(made):
            self.document.report(self.document.at(("templates", name)), unguarded(gap))
        return made

    def _template(self, name: str, at: KeyPath, entry: dict[str, Any]) -> Template | None:
        known = [field for field in Template.model_fields if field != "name"]
        self._keys(at, entry, known)
        return self._values.validated(at, Template, {key: entry[key] for key in entry if key in known})

    # --- what refers to something else -------------------------------------------------------------------------

    def _check_names(self, models: Mapping[str, Any], templates: Mapping[str, Any]) -> None:
        """Check that each model and template that is named anywhere exists."""
        known = {"model": {**self._raw("models"), **models}, "template": {**self._raw("templates"), **templates}}
        for key_path in self._key_paths_of_names():
            name, names = self._raw(*key_path[:-1]).get(key_path[-1]), known[str(key_path[-1])]
            if isinstance(name, str) and name not in names and key_path not in self.document.failed:
                have = did_you_mean(name, names) or f" (known: {', '.join(sorted(names))})"
                self._report_name(key_path, f"there is no {key_path[-1]} {name!r}{have}", names)

    def _check_channels(
        self,
        models: Mapping[str, ModelSettings],
        templates: Mapping[str, Template],
        defaults: ChannelSettings,
        bots: Mapping[str, BotSettings],
    ) -> None:
        """Check that adapters and options belong to the model and template there, and aliases stand for commands."""
        for name, model in models.items():
            self._check_options(("models", name), model.template_options, model.template, templates)
        top = ChannelSettings(model=next(iter(models), "")).merged(defaults)
        places: list[tuple[KeyPath, ChannelSettings, ChannelSettings]] = [(("defaults",), defaults, top)]
        for name, bot in bots.items():
            own = top.merged(bot.defaults)
            places.append((("bots", name, "defaults"), bot.defaults, own))
            for id, channel in bot.channels.items():
                places.append((("bots", name, "channels", id), channel, own.merged(channel)))
        for at, written, merged in places:
            self._check_channel(at, written, merged, models)
            used = models.get(merged.model)
            template = merged.template or (used.template if used else None)
            self._check_options(at, written.template_options, template, templates)

    def _check_options(
        self, at: KeyPath, options: Mapping[str, Any], name: str | None, templates: Mapping[str, Template]
    ) -> None:
        """Check that a template with options is one that has variables: a Jinja template."""
        if options and (found := templates.get(name or "")) is not None and found.jinja is None:
            message = f"the template {name!r} has no variables; only Jinja templates have, such as `template: model`"
            self.document.report(self.document.at_key((*at, "template_options")), message)

    def _check_channel(
        self, at: KeyPath, written: ChannelSettings, merged: ChannelSettings, models: Mapping[str, ModelSettings]
    ) -> None:
        commands = self._plugins.chat_commands
        for alias, command in written.aliases.items():
            name = command[1:].partition(" ")[0].lower()
            if name not in commands:
                message = f"there is no command {name!r}{did_you_mean(name, commands)}"
                self._report_name((*at, "aliases", alias), message, commands)
        model = models.get(merged.model)
        if written.adapter is None or model is None:
            return
        known = model.adapters
        if written.adapter not in known:
            message = f"the model {model.name!r} has no adapter {written.adapter!r}"
            have = did_you_mean(written.adapter, known) or f" (it has: {', '.join(sorted(known)) or 'none'})"
            self._report_name((*at, "adapter"), message + have, known)

    def _key_paths_of_names(self) -> Iterator[tuple[str, ...]]:
        for name in self._raw("models"):
            yield ("models", name, "template")
        settings: list[tuple[str, ...]] = [("defaults",)]
        for bot in self._raw("bots"):
            settings.append(("bots", bot, "defaults"))
            settings += [("bots", bot, "channels", id) for id in self._raw("bots", bot, "channels")]
        for at in settings:
            yield (*at, "model")
            yield (*at, "template")

    def _raw(self, *key_path: str | int) -> dict[str, Any]:
        value = self.document.value
        for key in key_path:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def _plugin(self, at: KeyPath, entry: dict[str, Any], kind: str, known: Mapping[str, K], require: Any) -> K | None:
        name, key_path = entry.get(kind), (*at, kind)
        if isinstance(name, str) and name:
            try:
                found: K = require(name)
                return found
            except PluginError as error:
                self._report_name(key_path, str(error), known)
        elif key_path not in self.document.failed:
            location = self.document.at(key_path) if kind in entry else self.document.at_key(at)
            self.document.report(location, _one_of(kind, known))
        return None

    def _report_name(self, key_path: KeyPath, message: str, known: Iterable[str]) -> None:
        """Report a wrong name. `message` repeats it, and so is left out where a variable, maybe a secret, gave it."""
        secret = key_path in self.document.substituted
        self.document.report(self.document.at(key_path), _one_of(str(key_path[-1]), known) if secret else message)

    def _check_ids(self, frontend: FrontendType, at: KeyPath) -> None:
        for id in self._raw(*at, "channels"):
            if wrong := frontend.check_id(id):
                location = self.document.at_key((*at, "channels", id))
                self.document.report(location, f"{id!r} is no id of {frontend.name}: {wrong}")
        for kind in ("allow", "deny", "admins"):
            for key, ids in self._raw(*at, kind).items():
                for n, id in enumerate(ids if isinstance(ids, list) else ()):
                    key_path = (*at, kind, key, n)
                    text = str(id).lower() if isinstance(id, bool) else str(id)
                    if not text or not isinstance(id, str | int | float) or key_path in self.document.failed:
                        continue
                    if wrong := frontend.check_id(text):
                        shown = "this" if key_path in self.document.substituted else repr(text)
                        self.document.report(
                            self.document.at(key_path), f"{shown} is no id of {frontend.name}: {wrong}"
                        )

    def _check_admins(self, at: KeyPath, admins: Admins, keys: BotKeys) -> None:
        """Check that `pairing` has admins who can let people in, and that each of `admin_commands` exists."""
        if keys.pairing and admins == Admins() and (*at, "admins") not in self.document.failed:
            message = "`pairing` needs `admins`: else nobody could let anybody in"
            self.document.report(self.document.at_key((*at, "pairing")), message)
        known = self._plugins.chat_commands
        for n, name in enumerate(self._raw(*at)["admin_commands"] if keys.admin_commands else ()):
            key_path = (*at, "admin_commands", n)
            if name not in known:
                secret = key_path in self.document.substituted
                have = "" if secret else did_you_mean(str(name), known)
                have = have or f" (known: {', '.join(known)})"
                self.document.report(
                    self.document.at(key_path), f"{'this' if secret else repr(name)} is no command{have}"
                )

    # --- mappings and their keys -------------------------------------------------------------------------------

    def _entries(self, section: str, top: dict[str, Any], read: Any) -> Iterator[tuple[str, Any]]:
        for name, entry in self._mapping((section,), top.get(section)).items():
            at = (section, name)
            if entry is None:
                self.document.report(self.document.at_key(at), f"{name!r} is empty; write its settings under it")
            elif not isinstance(entry, dict):
                self._mapping(at, entry)
            elif (made := read(name, at, entry)) is not None:
                yield name, made

    def _mapping(self, at: KeyPath, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        if value is not None and at not in self.document.failed:
            what = f"`{at[-1]}`" if at else "the file"
            self.document.report(self.document.at(at), f"{what} has to be keys with values, as `key: value`")
        return {}

    def _keys(
        self, at: KeyPath, entry: Mapping[str, Any], known: Iterable[str], where: str = "", also: Iterable[str] = ()
    ) -> None:
        """Report keys of `entry` that are neither `known` nor allowed besides (`also`)."""
        known, also = list(known), list(also)
        where = where or (f"under `{at[-1]}`" if at else "at the top of the file")
        for key in entry:
            if key not in known and key not in also:
                self.document.report(self.document.at_key((*at, key)), no_key(key, where, known, also, entry))


def _one_of(key: str, known: Iterable[str]) -> str:
    return f"`{key}` has to name one of: {', '.join(sorted(known)) or 'none is there'}"
