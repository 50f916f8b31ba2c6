"""From the text of bots.yaml to `Settings`, or to every complaint about it at once, each with its line and column.

Knows the keys of bots.yaml and asks plugins for the keys that they add; runs nothing and loads no model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from chatbridge.config.complaints import in_words, is_text
from chatbridge.config.keys import BotKeys, ModelKeys, TopKeys
from chatbridge.config.nodes import Document, Mark, Place, parse
from chatbridge.config.settings import Access, BotSettings, ChannelSettings, ModelSettings, Settings
from chatbridge.errors import ConfigError, PluginError, TemplateError
from chatbridge.plugins import Plugins, did_you_mean
from chatbridge.prompts import Template, resolve

if TYPE_CHECKING:
    from chatbridge.frontend import FrontendType

M = TypeVar("M", bound=BaseModel)

STORE = "chatbridge.sqlite3"
"""The database's name beside bots.yaml, unless `store` says otherwise."""


def load(path: Path, plugins: Plugins, environment: Mapping[str, str] | None = None) -> Settings:
    """Read a configuration file. `environment` fills in `${NAME}`: `os.environ` unless given.

    Raises: ConfigError with one line for each complaint, `file:line:column: message`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name another file by -c") from error
    reader = _Reader(parse(data, os.environ if environment is None else environment), path, plugins)
    settings = reader.settings()
    if complaints := sorted(set(reader.document.complaints)):
        lines = (f"{path}:{c.mark.line}:{c.mark.column}: {c.message}" for c in complaints)
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
    """Collects complaints in `document` while it puts the settings together."""

    def __init__(self, document: Document, path: Path, plugins: Plugins) -> None:
        self.document = document
        self._base = path.absolute().parent
        self._files = [path]
        self._plugins = plugins

    def settings(self) -> Settings:
        top = self._mapping((), self.document.value)
        self._keys((), top, TopKeys.model_fields)
        models = dict(self._entries("models", top, self._model))
        if not models and not top.get("models"):
            models = _guide(self._plugins)
        templates = self._templates(top)
        defaults = self._channel(("defaults",), top.get("defaults"))
        bots = dict(self._entries("bots", top, self._bot))
        self._names_exist(models, templates)
        checked = self._validated((), TopKeys, {key: top[key] for key in ("store",) if key in top})
        store = checked.store if checked is not None and checked.store is not None else self._base / STORE
        return Settings(models, templates, Path(store), defaults, bots, tuple(self._files))

    # --- the parts of the file ---------------------------------------------------------------------------------

    def _model(self, name: str, at: Place, entry: dict[str, Any]) -> ModelSettings | None:
        backend = self._plugin(at, entry, "backend", self._plugins.backends, self._plugins.require_backend)
        if backend is None:
            return None
        own, options = self._split(at, entry, ModelKeys, backend.options, "backend", backend.name)
        keys = self._validated(at, ModelKeys, own)
        filled = self._validated(at, backend.options, options)
        if keys is None or filled is None:
            return None
        return ModelSettings(name, backend.name, filled, keys.template, keys.sampling, keys.max_batch)

    def _bot(self, name: str, at: Place, entry: dict[str, Any]) -> BotSettings | None:
        frontend = self._plugin(at, entry, "frontend", self._plugins.frontends, self._plugins.require_frontend)
        defaults = self._channel((*at, "defaults"), entry.get("defaults"))
        channels: dict[str, ChannelSettings] = {}
        for id, settings in self._mapping((*at, "channels"), entry.get("channels")).items():
            channels[id] = self._channel((*at, "channels", id), settings)
        access = [self._access((*at, key), entry.get(key)) for key in ("allow", "deny")]
        if frontend is None:
            return None
        for id in channels:
            self._check_id(frontend, id, self.document.at_key((*at, "channels", id)))
        for key, value in zip(("allow", "deny"), access, strict=True):
            for id in sorted(value.users | value.channels):
                self._check_id(frontend, id, self.document.at((*at, key)))
        own, options = self._split(at, entry, BotKeys, frontend.options, "frontend", frontend.name)
        del own
        filled = self._validated(at, frontend.options, options)
        if filled is None:
            return None
        return BotSettings(name, frontend.name, filled, defaults, channels, *access)

    def _templates(self, top: dict[str, Any]) -> dict[str, Template]:
        written = dict(self._entries("templates", top, self._template))
        known = {**self._plugins.templates, **written}
        resolved = dict(self._plugins.templates)
        for name, template in written.items():
            # A template may carry the name of the preset that it changes.
            others = {**known, name: self._plugins.templates.get(name, template)}
            try:
                resolved[name] = resolve(name, template, others)
            except TemplateError as error:
                place = ("templates", name, "extends")
                self.document.complain(self.document.at(place), str(error))
            except ValidationError as error:
                self._complain(("templates", name), Template, error)
        return resolved

    def _template(self, name: str, at: Place, entry: dict[str, Any]) -> Template | None:
        self._keys(at, entry, [field for field in Template.model_fields if field != "name"])
        return self._validated(at, Template, {key: entry[key] for key in entry if key in Template.model_fields})

    def _channel(self, at: Place, entry: Any) -> ChannelSettings:
        mapping = self._texts_from_files(at, self._mapping(at, entry), ChannelSettings)
        self._keys(at, mapping, ChannelSettings.model_fields)
        known = {key: value for key, value in mapping.items() if key in ChannelSettings.model_fields}
        return self._validated(at, ChannelSettings, known) or ChannelSettings()

    def _access(self, at: Place, entry: Any) -> Access:
        mapping = self._mapping(at, entry)
        self._keys(at, mapping, Access.model_fields)
        return self._validated(at, Access, {k: v for k, v in mapping.items() if k in Access.model_fields}) or Access()

    # --- what refers to something else -------------------------------------------------------------------------

    def _names_exist(self, models: Mapping[str, Any], templates: Mapping[str, Any]) -> None:
        """Whether each model and template that is named anywhere is there."""
        known = {"model": {**self._raw("models"), **models}, "template": {**self._raw("templates"), **templates}}
        for at in self._places_of_settings():
            for kind, names in known.items():
                name = self._raw(*at).get(kind)
                if isinstance(name, str) and name not in names:
                    have = did_you_mean(name, names) or f" (known: {', '.join(sorted(names))})"
                    self.document.complain(self.document.at((*at, kind)), f"there is no {kind} {name!r}{have}")

    def _places_of_settings(self) -> Iterable[Place]:
        yield ("defaults",)
        for name in self._raw("models"):
            yield ("models", name)
        for bot in self._raw("bots"):
            yield ("bots", bot, "defaults")
            for id in self._raw("bots", bot, "channels"):
                yield ("bots", bot, "channels", id)

    def _raw(self, *place: str | int) -> dict[str, Any]:
        value = self.document.value
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def _plugin(
        self, at: Place, entry: dict[str, Any], kind: str, known: Mapping[str, Any], require: Any
    ) -> Any | None:
        name = entry.get(kind)
        if not isinstance(name, str) or not name:
            mark = self.document.at((*at, kind)) if kind in entry else self.document.at_key(at)
            self.document.complain(mark, f"`{kind}` has to name one of: {', '.join(sorted(known))}")
            return None
        try:
            return require(name)
        except PluginError as error:
            self.document.complain(self.document.at((*at, kind)), str(error))
            return None

    def _check_id(self, frontend: FrontendType, id: str, mark: Mark) -> None:
        if wrong := frontend.check_id(id):
            self.document.complain(mark, f"{id!r} is no id of {frontend.name}: {wrong}")

    # --- mappings and their keys -------------------------------------------------------------------------------

    def _entries(self, section: str, top: dict[str, Any], read: Any) -> Iterable[tuple[str, Any]]:
        for name, entry in self._mapping((section,), top.get(section)).items():
            at = (section, name)
            if entry is None:
                self.document.complain(self.document.at_key(at), f"{name!r} is empty; write its settings under it")
            elif (made := read(name, at, self._mapping(at, entry))) is not None:
                yield name, made

    def _mapping(self, at: Place, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.document.complain(self.document.at(at), f"{_what(at)} has to be keys with values, as `key: value`")
            return {}
        return value

    def _keys(self, at: Place, entry: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
        known = list(known)
        for key in entry:
            if key not in known:
                have = did_you_mean(key, known) or f" (known: {', '.join(known)})"
                message = f"there is no key {_shortened(key)!r} {where or _where(at)}{have}"
                self.document.complain(self.document.at_key((*at, key)), message)

    def _split(
        self,
        at: Place,
        entry: dict[str, Any],
        own: type[BaseModel],
        options: type[BaseModel],
        kind: str,
        name: str,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The core's keys of an entry, and the plugin's."""
        entry = self._texts_from_files(at, entry, options)
        self._keys(at, entry, [*own.model_fields, *options.model_fields], f"for {kind} {name!r}")
        ours = {key: value for key, value in entry.items() if key in own.model_fields}
        theirs = {key: value for key, value in entry.items() if key in options.model_fields and key not in ours}
        return ours, theirs

    def _texts_from_files(self, at: Place, entry: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
        """`token_file: path` in the place of `token`, for every key that takes text."""
        result = dict(entry)
        for key, name in entry.items():
            target = key.removesuffix("_file")
            if key == target or key in model.model_fields or not is_text(model.model_fields.get(target)):
                continue
            del result[key]
            mark = self.document.at((*at, key))
            if target in entry:
                self.document.complain(mark, f"`{target}` is given, too; keep one of `{target}` and `{key}`")
            elif not isinstance(name, str):
                self.document.complain(mark, f"`{key}` has to be the path of a file")
            else:
                path = self._base / Path(name).expanduser()
                try:
                    result[target] = path.read_text(encoding="utf-8").rstrip("\r\n")
                    self._files.append(path)
                except (OSError, ValueError) as error:
                    why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
                    self.document.complain(mark, f"`{key}`: {path} can't be read: {why}")
                    result[target] = "unreadable"  # so that it is not called missing as well
                self.document.substituted.add((*at, target))
                self.document.values[*at, target] = mark
        return result

    def _validated(self, at: Place, model: type[M], values: dict[str, Any]) -> M | None:
        try:
            return model.model_validate(values, context={"base": self._base})
        except ValidationError as error:
            self._complain(at, model, error)
            return None

    def _complain(self, at: Place, model: type[BaseModel], error: ValidationError) -> None:
        for one in error.errors(include_url=False):
            place = at
            for step in one["loc"]:  # what is not in the file are tags of unions, which pydantic puts in between
                if (*place, step) in self.document.values:
                    place = (*place, step)
            mark = self.document.at_key(at) if one["type"] == "missing" else self.document.at(place)
            self.document.complain(mark, in_words(one, model, secret=place in self.document.substituted))


def _what(at: Place) -> str:
    return f"`{at[-1]}`" if at else "the file"


def _where(at: Place) -> str:
    return f"under `{at[-1]}`" if at else "at the top of the file"


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
