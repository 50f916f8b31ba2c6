"""Says in words what pydantic found wrong. Knows its kinds of errors; never repeats a value that may be secret."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from chatbridge.plugins import did_you_mean

_WORDS = {
    "string_type": "has to be text; put it in quotes",
    "int_type": "has to be a whole number",
    "int_parsing": "has to be a whole number",
    "int_from_float": "has to be a whole number",
    "float_type": "has to be a number",
    "float_parsing": "has to be a number",
    "bool_type": "has to be true or false",
    "bool_parsing": "has to be true or false",
    "list_type": "has to be a list, as [one, two]",
    "tuple_type": "has to be a list, as [one, two]",
    "set_type": "has to be a list, as [one, two]",
    "frozen_set_type": "has to be a list, as [one, two]",
    "dict_type": "has to be keys with values, as {key: value}",
    "model_type": "has to be keys with values, as {key: value}",
    "path_type": "has to be the path of a file",
    "greater_than_equal": "has to be at least {ge}",
    "greater_than": "has to be more than {gt}",
    "less_than_equal": "has to be at most {le}",
    "less_than": "has to be less than {lt}",
    "string_too_short": "has to have at least {min_length} characters",
    "string_too_long": "has to have at most {max_length} characters",
    "finite_number": "has to be a finite number",
}


def in_words(error: Mapping[str, Any], model: type[BaseModel], *, secret: bool) -> str:
    """One of `ValidationError.errors()` of `model` as a sentence. `secret`: don't repeat the value."""
    kind, loc = error["type"], error["loc"]
    key = ".".join(str(step) for step in loc)
    context = error.get("ctx", {})
    if kind == "missing":
        field = model.model_fields.get(str(loc[-1]))
        what = f": {field.description}" if field is not None and field.description else ""
        return f"`{key}` is missing{what}"
    if kind == "extra_forbidden":
        known = _fields_at(model, loc[:-1])
        have = did_you_mean(str(loc[-1]), known) or (f" (known: {', '.join(known)})" if known else "")
        return f"there is no key {str(loc[-1])[:40]!r} under `{'.'.join(map(str, loc[:-1]))}`{have}"
    if kind in ("literal_error", "enum"):
        message = f"`{key}` has to be {context['expected']}"
        choices = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return message + ("" if secret else did_you_mean(str(error["input"]), choices))
    if kind in ("value_error", "assertion_error"):
        return f"`{key}`: {context.get('error', error['msg'])}" if key else str(context.get("error", error["msg"]))
    if error["input"] is None and kind in _WORDS:
        return f"`{key}` is empty; it {_WORDS[kind].format(**context)}, or leave it out"
    if kind in _WORDS:
        return f"`{key}` {_WORDS[kind].format(**context)}"
    return f"`{key}`: {error['msg'].replace('Input should', 'it should')}"


def is_text(field: FieldInfo | None) -> bool:
    """Whether a field takes free text, so that `<key>_file` may give it."""
    return field is not None and bool(_alternatives(field.annotation) & {str, SecretStr})


def _alternatives(annotation: Any) -> set[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*(_alternatives(part) for part in typing.get_args(annotation)))
    if typing.get_origin(annotation) is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    return {annotation} if isinstance(annotation, type) else set()


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys known at a place inside `model`, as far as they can be told."""
    fields = model.model_fields
    for step in loc:
        field = fields.get(str(step))
        inner = [a for a in _alternatives(field.annotation) if issubclass(a, BaseModel)] if field else []
        if not inner:
            return []
        fields = inner[0].model_fields
    return list(fields)
