"""From the text of bots.yaml to `Settings`, or to all errors in it at once, each with its line and column.

Knows the keys of bots.yaml and asks plugins for the keys that they add; runs nothing and loads no model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from chatbridge.config.diagnostics import no_key
from chatbridge.config.files import read_file
from chatbridge.config.keys import BotKeys, ModelKeys, TopKeys
from chatbridge.config.nodes import Document, KeyPath, SourceLocation, parse
from chatbridge.config.references import References, mapping_at, one_of, report_name
from chatbridge.config.secrets import shared_secrets
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

IDLE_STATES = "idle-states"
"""The folder beside the database for what models that are unloaded have read, where their options name no other."""


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
        instead = "name another one" + (
            ", or write one by `chatbridge init`" if isinstance(error, FileNotFoundError) else ""
        )
        raise ConfigError(f"{path}:1:1: this file can't be read: {error.strerror}; {instead}") from error
    environment = os.environ if environment is None else environment
    reader = _Reader(parse(data, environment), path, plugins, environment)
    settings = reader.settings()
    looked_at |= reader.files
    if diagnostics := reader.document.told():
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
        if self.document.value is None and not self.document.diagnostics:
            message = "this file is empty; `chatbridge repl` needs none, and bots are written under `bots`"
            self.document.report(SourceLocation(), message)
        self._keys((), top, TopKeys.model_fields)
        models = dict(self._entries("models", top, self._model))
        templates = self._templates(top)
        defaults = self._channel(("defaults",), top.get("defaults"))
        bots = dict(self._entries("bots", top, self._bot))
        if not top.get("models"):
            models = self._default_models()
        for key_path, message in shared_secrets(bots):
            if key_path not in self.document.failed:
                self.document.report(self.document.at(key_path), message)
        References(self.document, self._plugins, models, templates).check(defaults, bots)
        plain = ("store", "drain", "monitor", "template_seconds", "template_mib", "load_mib")
        own: dict[str, Any] = {key: top[key] for key in plain if key in top}
        checked = self._values.validated((), TopKeys, own) or TopKeys()
        keep = self._part(("keep",), top.get("keep"), Keep)
        variables = frozenset(self.document.variables)
        store = Path(self._base / STORE if checked.store is None else checked.store)
        models = {name: replace(one, states_folder=_states_folder(one, store)) for name, one in models.items()}
        limits = JinjaLimits(checked.template_seconds, checked.template_mib)
        more = (checked.drain, checked.monitor, limits, checked.load_mib, variables, keep)
        return Settings(models, templates, store, defaults, bots, *more)

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
            keys.idle_minutes,
            template_options=keys.template_options,
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
            report_name(self.document, key_path, message, catalogue())
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
        failed = mapping_at(self.document, "templates").keys() - written.keys()
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
                report_name(self.document, key_path, f"template {name!r} extends itself: {way}", presets)
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
            report_name(self.document, ("templates", name, "extends"), message, others)
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

    # --- plugins and people ---------------------------------------------------------------------------------------

    def _plugin(self, at: KeyPath, entry: dict[str, Any], kind: str, known: Mapping[str, K], require: Any) -> K | None:
        name, key_path = entry.get(kind), (*at, kind)
        if isinstance(name, str) and name:
            try:
                found: K = require(name)
                return found
            except PluginError as error:
                report_name(self.document, key_path, str(error), known)
        elif key_path not in self.document.failed:
            location = self.document.at(key_path) if kind in entry else self.document.at_key(at)
            self.document.report(location, one_of(kind, known))
        return None

    def _check_ids(self, frontend: FrontendType, at: KeyPath) -> None:
        for id in mapping_at(self.document, *at, "channels"):
            if wrong := frontend.check_id(id):
                location = self.document.at_key((*at, "channels", id))
                self.document.report(location, f"{id!r} is no id of {frontend.name}: {wrong}")
        for kind in ("allow", "deny", "admins"):
            for key, ids in mapping_at(self.document, *at, kind).items():
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
        for n, name in enumerate(mapping_at(self.document, *at)["admin_commands"] if keys.admin_commands else ()):
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
            named = isinstance(value, list) and at[-1:] in (("models",), ("bots",), ("templates",), ("channels",))
            instead = "; in place of a list, write `NAME:` for each, with what belongs to it indented below"
            message = f"{what} has to be keys with values, as `key: value`{instead if named else ''}"
            self.document.report(self.document.at(at), message)
        return {}

    def _keys(
        self, at: KeyPath, entry: Mapping[str, Any], known: Iterable[str], where: str = "", also: Iterable[str] = ()
    ) -> None:
        """Report keys of `entry` that are neither `known` nor allowed besides (`also`)."""
        known, also = list(known), list(also)
        where = where or (f"under `{at[-1]}`" if at else "at the top of the file")
        before = ""
        for key, value in entry.items():
            if key not in known and key not in also:
                message = no_key(key, where, known, also, entry)
                if before in known and entry[before] is None and isinstance(value, dict):
                    message = f"there is no key {key!r} {where}; indent it to have it under `{before}`, which is empty"
                self.document.report(self.document.at_key((*at, key)), message)
            else:
                before = key


def _states_folder(model: ModelSettings, store: Path) -> Path | None:
    """Where a model's states go when it is unloaded: the folder that its options have for them, if they have one."""
    own = getattr(model.options, "keep_states", None)
    if own is False:
        return None
    return own if isinstance(own, Path) else store.parent / IDLE_STATES
