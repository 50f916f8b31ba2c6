"""Holds what went over the wire against aiogram's typed models of the Bot API: requests, answers and updates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import pydantic
from pydantic import TypeAdapter

from chatbridge.testing.wire.calls import Call, Calls


def breaches(calls: Calls) -> list[str]:
    """Everything that aiogram's models would not have: a field too many or too few, or of another type."""
    return [f"{call.name}: {problem}" for call in calls for problem in _of(call)]


def _of(call: Call) -> Iterator[str]:
    aiogram = _library()
    if call.name == "webhook":
        yield from _problems(aiogram.types.Update, dict(call.params))
        return
    method = getattr(aiogram.methods, call.name[:1].upper() + call.name[1:], None)
    if method is None or call.fault == "malformed" or not isinstance(call.answer, dict):
        return
    if call.answer["ok"]:
        yield from _problems(method, _given(call, method))
        yield from _problems(method.__returning__, call.answer["result"])
    else:
        yield from _problems(aiogram.methods.Response[method.__returning__], call.answer)


def _given(call: Call, method: Any) -> dict[str, Any]:
    """The parameters of a call, with the objects and lists that forms carry as JSON; a file's place is kept."""
    given: dict[str, Any] = {}
    for name, value in call.params.items():
        try:
            decoded = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            decoded = value
        given[name] = decoded if isinstance(decoded, dict | list | bool) else value
    return given | {name: "attach://file" for name in call.files if name in method.model_fields}


def _problems(kind: Any, value: Any) -> Iterator[str]:
    try:
        found = _adapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        yield str(error)
        return
    yield from _unknown(found, "")


@cache
def _library() -> Any:
    """aiogram, imported without the ten seconds that it takes to build 400 models: `_adapter` builds what is used."""
    rebuild = pydantic.BaseModel.__dict__["model_rebuild"]
    pydantic.BaseModel.model_rebuild = classmethod(lambda model, **_: None)  # type: ignore[assignment, method-assign]
    try:
        import aiogram.methods
        import aiogram.types
    finally:
        pydantic.BaseModel.model_rebuild = rebuild  # type: ignore[method-assign]
    return aiogram


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    types = _library().types
    names = {name: getattr(types, name) for name in types.__all__}
    for model in _models(kind):
        model.model_rebuild(_types_namespace=names)
    return TypeAdapter(kind)


def _models(kind: Any) -> Iterator[type[pydantic.BaseModel]]:
    """The models that a type such as `list[Message] | bool` names."""
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _models(part)


def _unknown(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, pydantic.BaseModel):
        yield from (f"unknown field {place}.{name}" for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name), f"{place}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _unknown(item, place)
