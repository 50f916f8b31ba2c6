"""The JSON Schema of bots.yaml with everything that the installed plugins add, for editors. Reads no file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from chatbridge.config.complaints import is_text
from chatbridge.config.keys import BotKeys, ModelKeys, TopKeys
from chatbridge.config.settings import ChannelSettings
from chatbridge.plugins import Plugins

_REF = "#/$defs/{model}"
_VARIABLE = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"


def json_schema(plugins: Plugins) -> dict[str, Any]:
    """The schema, in JSON Schema 2020-12."""
    backends, frontends = list(plugins.backends.values()), list(plugins.frontends.values())
    kinds: list[type[BaseModel]] = [TopKeys, ModelKeys, BotKeys, ChannelSettings]
    kinds += [backend.options for backend in backends]
    kinds += [frontend.options for frontend in frontends]
    unique = list(dict.fromkeys(kinds))
    refs, whole = models_json_schema([(kind, "validation") for kind in unique], ref_template=_REF)
    definitions: dict[str, Any] = whole["$defs"]
    for kind in unique:
        _allow_files(definitions, refs[kind, "validation"]["$ref"], kind)
    for schema in definitions.values():
        _allow_variables(schema)

    def entry(own: type[BaseModel], key: str, plugin: Any) -> dict[str, Any]:
        ours = definitions[_name(refs[own, "validation"])]
        theirs = definitions[_name(refs[plugin.options, "validation"])]
        return {
            "type": "object",
            "description": plugin.summary,
            "properties": {**theirs.get("properties", {}), **ours["properties"], key: {"const": plugin.name}},
            "required": [key, *theirs.get("required", [])],
            "additionalProperties": False,
        }

    top = definitions.pop(_name(refs[TopKeys, "validation"]))
    top["properties"]["models"]["additionalProperties"] = {
        "anyOf": [entry(ModelKeys, "backend", backend) for backend in backends]
    }
    top["properties"]["bots"]["additionalProperties"] = {
        "anyOf": [entry(BotKeys, "frontend", frontend) for frontend in frontends]
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bots.yaml",
        **{key: value for key, value in top.items() if key != "title"},
        "$defs": definitions,
    }


def _allow_files(definitions: dict[str, Any], ref: str, model: type[BaseModel]) -> None:
    """Add `<key>_file` beside each key that takes text."""
    schema = definitions[ref.rpartition("/")[2]]
    for key in list(schema.get("properties", {})):
        if not is_text(model.model_fields.get(key)):
            continue
        about = f"A file that holds `{key}`, in its place."
        schema["properties"].setdefault(f"{key}_file", {"type": "string", "description": about})
        if key in schema.get("required", []):
            schema["required"].remove(key)
            schema.setdefault("allOf", []).append({"anyOf": [{"required": [key]}, {"required": [f"{key}_file"]}]})
        schema["properties"][key].setdefault("description", "")


def _allow_variables(schema: dict[str, Any]) -> None:
    """Let a `${VARIABLE}` stand where a number or a choice is wanted."""
    for key, value in schema.get("properties", {}).items():
        if value.get("type") in ("integer", "number", "boolean") or "enum" in value:
            about = {name: value.pop(name) for name in ("description", "default", "title") if name in value}
            variable = {"type": "string", "pattern": _VARIABLE}
            schema["properties"][key] = {**about, "anyOf": [value, variable]}


def _name(ref: dict[str, Any]) -> str:
    name: str = ref["$ref"].rpartition("/")[2]
    return name
