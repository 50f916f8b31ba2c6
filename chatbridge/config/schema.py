"""The JSON Schema of bots.yaml with everything that the installed plugins add, for editors. Reads no file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from chatbridge.config.keys import BotKeys, ModelKeys, TopKeys
from chatbridge.config.settings import ChannelSettings
from chatbridge.config.values import file_keys
from chatbridge.model_tools.fetching.catalogue import catalogue
from chatbridge.plugins.manager import Plugins
from chatbridge.prompts.template import Template

if TYPE_CHECKING:
    from chatbridge.engine.backend import BackendType
    from chatbridge.plugins.frontend import FrontendType

Schema = dict[str, Any]

_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
_ABOUT = ("description", "title", "default")
_NOTHING: Schema = {"type": "null"}


def json_schema(plugins: Plugins) -> Schema:
    """The schema, in JSON Schema 2020-12.

    It accepts what the reader accepts, but for numbers and booleans in quotes, and names of backends and frontends
    from variables.
    """
    backends, frontends = plugins.backends.values(), plugins.frontends.values()
    options = [*(backend.options for backend in backends), *(frontend.options for frontend in frontends)]
    with_files: dict[type[BaseModel], None] = dict.fromkeys([ChannelSettings, *options])
    kinds: list[type[BaseModel]] = [TopKeys, ModelKeys, BotKeys, Template, *with_files]
    names, whole = models_json_schema([(kind, "validation") for kind in kinds], schema_generator=_Generator)
    definitions: dict[str, Schema] = {name: _with_variables(schema) for name, schema in whole["$defs"].items()}

    def definition(kind: type[BaseModel]) -> Schema:
        return definitions[names[kind, "validation"]["$ref"].rpartition("/")[2]]

    for kind in with_files:
        _allow_files(definition(kind), kind)
    del definition(Template)["properties"]["name"]  # it is the key

    top, bot = definition(TopKeys)["properties"], definition(BotKeys)["properties"]
    _or_nothing(bot["channels"]["additionalProperties"])
    for section in ("defaults", "channels", "allow", "deny", "admins", "limits"):
        _or_nothing(bot[section])
    for section in ("models", "templates", "defaults", "bots", "keep"):
        _or_nothing(top[section])

    def entries(own: type[BaseModel], key: str, offered: Iterable[BackendType | FrontendType]) -> Schema:
        return {"anyOf": [_entry(definition(own), key, one, definition(one.options)) for one in offered] or [False]}

    top["models"]["anyOf"][0]["additionalProperties"] = models = entries(ModelKeys, "backend", backends)
    for model in models["anyOf"] if backends else ():
        _allow_catalogue(model)
    top["bots"]["anyOf"][0]["additionalProperties"] = entries(BotKeys, "frontend", frontends)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bots.yaml",
        "type": ["object", "null"],
        "properties": top,
        "additionalProperties": False,
        "$defs": definitions,
    }


class _Generator(GenerateJsonSchema):
    """Lets pass what can't be said in JSON Schema, so that one plugin's odd type spoils no one else's help."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  (pydantic's own way)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {}


def _entry(own: Schema, key: str, plugin: BackendType | FrontendType, options: Schema) -> Schema:
    """An entry of `models` or `bots`: the core's keys and one plugin's."""
    return {
        "type": "object",
        "description": plugin.summary,
        "properties": {**options.get("properties", {}), **own["properties"], key: {"const": plugin.name}},
        "required": [key, *options.get("required", [])],
        "additionalProperties": False,
        **({"allOf": options["allOf"]} if "allOf" in options else {}),
    }


def _allow_catalogue(model: Schema) -> None:
    """Let `catalogue` stand in the place of `backend` and `path`."""
    needed = model.pop("required")
    model["properties"]["catalogue"] = {
        **model["properties"]["catalogue"],
        "anyOf": [{"enum": [*catalogue()]}, _VARIABLE],
    }
    rest = [key for key in needed if key not in ("backend", "path")]
    by_name = {"required": ["catalogue", *rest], "not": {"required": ["path"]}}
    model.setdefault("allOf", []).append({"oneOf": [{"required": needed, "not": {"required": ["catalogue"]}}, by_name]})


def _allow_files(schema: Schema, model: type[BaseModel]) -> None:
    """Let `<key>_file` stand in the place of each key that takes text."""
    for key_file in file_keys(model):
        key = key_file.removesuffix("_file")
        schema["properties"][key_file] = {"type": "string", "description": f"A file that holds `{key}`, in its place."}
        if key in schema.get("required", []):
            schema["required"].remove(key)
            rule: Schema = {"oneOf": [{"required": [key]}, {"required": [key_file]}]}
        else:
            rule = {"not": {"required": [key, key_file]}}
        schema.setdefault("allOf", []).append(rule)


def _or_nothing(schema: Schema) -> None:
    """Let a section be empty, as it is while somebody is writing."""
    about = {key: schema.pop(key) for key in _ABOUT if key in schema}
    inside = dict(schema)
    schema.clear()
    schema.update(about, anyOf=[inside, _NOTHING])


def _with_variables(schema: Any) -> Any:
    """The schema with a `${VARIABLE}` allowed wherever something narrower than text is wanted."""
    if isinstance(schema, list):
        return [_with_variables(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed: Schema = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            changed[key] = {name: _with_variables(inside) for name, inside in value.items()}
        elif key in ("items", "prefixItems", "additionalProperties", "anyOf", "oneOf", "allOf"):
            # Two alternatives may both take a variable, so that `oneOf` would take none.
            changed["anyOf" if key == "oneOf" else key] = _with_variables(value)
        elif key != "discriminator":
            changed[key] = value
    narrow = {"enum", "const", "pattern", "minLength", "maxLength"} & changed.keys()
    if not narrow and changed.get("type") not in ("integer", "number", "boolean"):
        return changed
    about = {key: changed.pop(key) for key in _ABOUT if key in changed}
    return {**about, "anyOf": [changed, _VARIABLE]}
