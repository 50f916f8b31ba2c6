"""Checks the values of bots.yaml by the models that describe them, and says where each mistake stands.

Knows pydantic, places, traps and `<key>_file`; no key by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chatbridge.config.diagnostics import in_words, is_text, secrets_in
from chatbridge.config.nodes import Document, Place

M = TypeVar("M", bound=BaseModel)


class Values:
    """The values of one document, whose relative paths start at `base`. `files`: those that are to hold values."""

    def __init__(self, document: Document, base: Path) -> None:
        self.files: set[Path] = set()
        self._document = document
        self._context = {"base": base}

    def validated(self, at: Place, model: type[M], values: dict[str, Any]) -> M | None:
        """An instance of `model` from `values`, which stand under `at`; None after complaints."""
        self._document.secrets.update(text for text in secrets_in(model, values) if text)
        self._settle_booleans(at, model, values)
        self._settle_traps(at, model, values)
        try:
            return model.model_validate(values, context=self._context)
        except ValidationError as error:
            self.complain(at, model, error)
            return None

    def complain(self, at: Place, model: type[BaseModel], error: ValidationError) -> None:
        """Say where in the file each of pydantic's errors is."""
        found: dict[tuple[Place, bool], list[Any]] = {}
        for one in error.errors(include_url=False):
            of_key = one["type"] in ("missing", "extra_forbidden") or one["loc"][-1:] == ("[key]",)
            found.setdefault((self._place(at, one["loc"]), of_key), []).append(one)
        for (place, of_key), errors in found.items():
            if place in self._document.failed:
                continue
            mark = self._document.at_key(place) if of_key else self._document.at(place)
            beside = {str(other[-1]) for other in self._document.keys if other[:-1] == place[:-1]}
            hidden = self._document.secrets
            for message in in_words(errors, model, place[len(at) :], beside=beside, hidden=hidden):
                self._document.complain(mark, message)

    def _place(self, at: Place, loc: tuple[str | int, ...]) -> Place:
        """Where an error of pydantic's is in the file. It puts the tags of unions in between, which are not there."""
        place = at
        for step in loc:
            if (*place, step) in self._document.values:
                place = (*place, step)
        return place

    # --- words that can be read in several ways ----------------------------------------------------------------

    def _settle_traps(self, at: Place, model: type[BaseModel], values: dict[str, Any]) -> None:
        """Complain about traps among `values`, recommending only what can stand there, and read them so."""
        for place, trap in self._document.traps.items():
            steps = place[len(at) :]
            if place[: len(at)] != at or not steps or steps[0] not in values:
                continue
            fitting = [reading for reading in trap.readings if not self._errors(at, model, values, place, reading)]
            if fitting:  # else there is a complaint about the value anyway
                self._document.complain(self._document.at(place), trap.complaint(fitting))
                self._document.put(place, fitting[0])
                values.update(_with(values, steps, fitting[0]))

    def _settle_booleans(self, at: Place, model: type[BaseModel], values: dict[str, Any]) -> None:
        """Where a number is wanted, make `true` a word, since pydantic takes it for 1."""
        for steps in _booleans(values):
            if self._errors(at, model, values, (*at, *steps), "true") & {"int_parsing", "float_parsing"}:
                values.update(_with(values, steps, "true"))

    def _errors(self, at: Place, model: type[BaseModel], values: dict[str, Any], place: Place, value: Any) -> set[str]:
        """The kinds of errors there would be about `value` at `place`."""
        changed = _with(values, place[len(at) :], value)
        if value is True or value is False:
            self._settle_booleans(at, model, changed)
        try:
            model.model_validate(changed, context=self._context)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            return {str(one["type"]) for one in errors if self._place(at, one["loc"]) == place}
        return set()

    # --- texts from files --------------------------------------------------------------------------------------

    def texts_from_files(self, at: Place, entry: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
        """`entry` with `token_file: path` turned into `token`, for every key that takes text."""
        result = dict(entry)
        for key in file_keys(model):
            if key not in entry:
                continue
            target, place = key.removesuffix("_file"), (*at, key)
            del result[key]
            if target in entry:
                self._failed(place, f"`{target}` is given, too; keep one of `{target}` and `{key}`")
                continue
            result[target] = self._text_of_file(place, entry[key])
            self._document.values[*at, target] = self._document.values[place]
            if place in self._document.failed:
                self._document.failed.add((*at, target))
        return result

    def _text_of_file(self, place: Place, name: object) -> str:
        if place in self._document.failed:
            return ""
        key = place[-1]
        if name is None or name == "":
            return self._failed(place, f"`{key}` is empty; it has to be the path of a file")
        if not isinstance(name, str):
            return self._failed(place, f"`{key}` has to be the path of a file; put it in quotes")
        # The path is not repeated: it may be the secret itself, by mistake.
        try:
            path = Path(self._context["base"], Path(name).expanduser())
            self.files.add(path)
            text = path.read_text(encoding="utf-8-sig").rstrip("\r\n")
        except OSError as error:
            where = "" if Path(name).is_absolute() else f", looked for in {self._context['base']}"
            return self._failed(place, f"`{key}`: this file can't be read{where}: {error.strerror}")
        except UnicodeDecodeError:
            return self._failed(place, f"`{key}`: this file is no text in UTF-8")
        except (ValueError, RuntimeError):  # a character 0, or ~somebody who has no home here
            return self._failed(place, f"`{key}`: this can't be the path of a file")
        if not text:
            return self._failed(place, f"`{key}`: this file is empty")
        self._document.secrets.add(text)
        return text

    def _failed(self, place: Place, message: str) -> str:
        self._document.failed.add(place)
        self._document.complain(self._document.at(place), message)
        return ""


def file_keys(model: type[BaseModel]) -> Iterator[str]:
    """`<key>_file` for each key of `model` that takes text."""
    for key, field in model.model_fields.items():
        if is_text(field) and f"{key}_file" not in model.model_fields:
            yield f"{key}_file"


def _booleans(values: Any, above: Place = ()) -> Iterator[Place]:
    """The ways to each boolean in `values`."""
    if isinstance(values, bool):
        yield above
    elif isinstance(values, dict | list):
        for step, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _booleans(value, (*above, step))


def _with(values: Any, steps: Place, value: object) -> Any:
    """A copy of `values` with `value` at the end of `steps`."""
    if not steps:
        return value
    changed: Any = values.copy()
    changed[steps[0]] = _with(changed[steps[0]], steps[1:], value)
    return changed
