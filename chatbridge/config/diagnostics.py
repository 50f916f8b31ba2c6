"""Words for pydantic's errors. Knows its kinds of errors; never repeats a value that may be secret."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from chatbridge.config.keys import home
from chatbridge.suggest import did_you_mean

_NEEDS = {
    "string_type": "text; put it in quotes",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list, in [ ] or with a - before each item",
    "tuple_type": "a list, in [ ] or with a - before each item",
    "set_type": "a list, in [ ] or with a - before each item",
    "frozen_set_type": "a list, in [ ] or with a - before each item",
    "dict_type": "keys with values, as `key: value`",
    "model_type": "keys with values, as `key: value`",
    "model_attributes_type": "keys with values, as `key: value`",
    "path_type": "the path of a file",
    "none_required": "empty",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "{min_length} or more characters long",
    "string_too_long": "no more than {max_length} characters long",
    "too_short": "of {min_length} or more",
    "too_long": "of no more than {max_length}",
    "string_pattern_mismatch": "of the form {pattern}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "union_tag_invalid": "keys with values, and their {discriminator} one of {expected_tags}",
    "union_tag_not_found": "keys with values, {discriminator} among them",
}
"""What a value `has to be`, by the kind of error."""


def in_words(
    errors: Sequence[Mapping[str, Any]],
    model: type[BaseModel],
    steps: Sequence[str | int],
    *,
    beside: Collection[str] = (),
    hidden: Collection[str] = (),
) -> Iterator[str]:
    """Messages for those of `ValidationError.errors()` of `model` whose key path, inside the model, is `steps`.

    There may be several, from the alternatives of a union or from missing keys.
    `beside`: the keys that stand beside. `hidden`: texts that no message may hold.
    """
    others = [error for error in errors if error["type"] not in _NEEDS]
    if others:  # the alternative that came closest
        yield from dict.fromkeys(_sentence(error, model, steps, beside, hidden) for error in others)
        return
    key = _key(steps)
    needs = dict.fromkeys(_NEEDS[error["type"]].format(**_shown(error)) for error in errors)
    need, value = " or ".join(needs), errors[0]["input"]
    if value is None:
        field = _field(model, steps)
        instead = ", or leave it out" if field is not None and not field.is_required() else ""
        yield f"`{key}` is empty; it has to be {need.replace('; put it in quotes', '')}{instead}"
    elif any(error["loc"][-1] == "[key]" for error in errors):
        yield f"the key {steps[-1]!r} under `{_key(steps[:-1])}` has to be {need}"
    else:
        choices = [word for error in errors if error["type"] in ("literal_error", "enum") for word in _choices(error)]
        secret = any(text in str(value) for text in hidden)
        meant = "" if secret else did_you_mean(str(value), choices)
        if re.fullmatch(r"\d+,\d+", str(value)) and "number" in need:
            meant = "; decimals are written with a point"
        yield f"`{key}` has to be {need}{meant}"


def _sentence(
    error: Mapping[str, Any],
    model: type[BaseModel],
    steps: Sequence[str | int],
    beside: Collection[str],
    hidden: Collection[str],
) -> str:
    if error["type"] == "missing":
        inside = (*steps, error["loc"][-1])
        field = _field(model, inside)
        return f"`{_key(inside)}` is missing" + (f": {field.description}" if field and field.description else "")
    if error["type"] == "extra_forbidden":
        models = [inner for inner in _models_at(model, steps[:-1]) if steps[-1] not in inner.model_fields]
        known = list(dict.fromkeys(key for inner in models for key in inner.model_fields))
        return no_key(str(steps[-1]), f"under `{_key(steps[:-1])}`", known, taken=beside)
    about = f"`{_key(steps)}`: " if steps else ""
    words = str(error.get("ctx", {}).get("error", error["msg"]))
    if any(text in words or repr(text)[1:-1] in words for text in hidden):
        return f"{about}this value can't be used"
    return f"{about}{words.replace('Input should', 'it should')}"


def no_key(
    key: str, where: str, known: Collection[str], also: Collection[str] = (), taken: Collection[str] = ()
) -> str:
    """The message for an unknown key, with the closest known one, else with all of `known`.

    `also`: keys that are allowed besides. `taken`: keys that stand there already, and so are not proposed.
    """
    shown = key if len(key) <= 40 else key[:39] + "…"
    free = [name for name in (*known, *also) if name not in taken]
    if key.endswith("_file") and key.removesuffix("_file") in free:  # it takes no text, and so no text from a file
        free = [key.removesuffix("_file")]
    belongs = home(key, known)
    hint = f"; it belongs {belongs}" if belongs else did_you_mean(key, free)
    if not hint and known:
        hint = f" (known: {', '.join(known)})"
    return f"there is no key {shown!r} {where}{hint}"


def is_text(field: FieldInfo | None) -> bool:
    """Whether a field takes free text, so that `<key>_file` may give it."""
    return field is not None and not {str, SecretStr}.isdisjoint(_alternatives(field.annotation))


def secrets_in(model: type[BaseModel], values: Mapping[str, Any]) -> Iterator[str]:
    """Every text in `values` under a key that takes a secret, or something that has secrets inside."""
    for key, field in model.model_fields.items():
        if key in values and {SecretStr, SecretBytes} & set(_types_in(field.annotation)):
            yield from _texts_in(values[key])


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(item)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union; of anything else, the annotation itself."""
    kind, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if kind is typing.Annotated:
        yield from _alternatives(parts[0])
    elif kind in (typing.Union, types.UnionType):
        for part in parts:
            yield from _alternatives(part)
    else:
        yield annotation


def _types_in(annotation: Any, seen: frozenset[Any] = frozenset()) -> Iterator[type]:
    """Every class anywhere inside an annotation, also in the fields of models."""
    if isinstance(annotation, type) and annotation not in seen:
        yield annotation
        if issubclass(annotation, BaseModel):
            for field in annotation.model_fields.values():
                yield from _types_in(field.annotation, seen | {annotation})
    for part in typing.get_args(annotation):
        yield from _types_in(part, seen)


def _models_at(model: type[BaseModel], steps: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that describe the value at `steps` inside `model`."""
    models = [model]
    for step in steps:
        if isinstance(step, str):
            fields = [inner.model_fields[step] for inner in models if step in inner.model_fields]
            models = [inner for field in fields for inner in _inner_models(field.annotation)] if fields else models
    return models


def _inner_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _inner_models(part)


def _field(model: type[BaseModel], steps: Sequence[str | int]) -> FieldInfo | None:
    if not steps or not isinstance(steps[-1], str):
        return None
    fields = [inner.model_fields.get(steps[-1]) for inner in _models_at(model, steps[:-1])]
    return next((field for field in fields if field is not None), None)


def _key(steps: Sequence[str | int]) -> str:
    """A key path as people write it: `limits.rooms[2]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def _shown(error: Mapping[str, Any]) -> dict[str, Any]:
    return {key: f"{value:g}" if isinstance(value, float) else value for key, value in error.get("ctx", {}).items()}


def _choices(error: Mapping[str, Any]) -> list[str]:
    return [word.strip("'") for word in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
