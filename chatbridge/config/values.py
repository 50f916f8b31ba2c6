"""Checks the values of bots.yaml by the models that describe them, and says where each mistake stands.

Knows pydantic, key paths, ambiguous scalars and `<key>_file`; no key by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chatbridge.config.diagnostics import in_words, is_text, secrets_in
from chatbridge.config.files import read_file
from chatbridge.config.nodes import Document, KeyPath

M = TypeVar("M", bound=BaseModel)


class Values:
    """The values of one document, whose relative paths start at `base`. `files`: every file named by a `<key>_file`."""

    def __init__(self, document: Document, base: Path) -> None:
        self.files: set[Path] = set()
        self._document = document
        self._context = {"base": base}

    def validated(self, at: KeyPath, model: type[M], values: dict[str, Any]) -> M | None:
        """An instance of `model` from `values`, which stand under `at`; None where errors were reported."""
        self._document.secrets.update(text for text in secrets_in(model, values) if text)
        self._settle_booleans(at, model, values)
        self._settle_ambiguous(at, model, values)
        try:
            return model.model_validate(values, context=self._context)
        except ValidationError as error:
            self.report(at, model, error)
            return None

    def report(self, at: KeyPath, model: type[BaseModel], error: ValidationError) -> None:
        """Report each of pydantic's errors where it is in the file."""
        found: dict[tuple[KeyPath, bool], list[Any]] = {}
        for one in error.errors(include_url=False):
            of_key = one["type"] in ("missing", "extra_forbidden") or one["loc"][-1:] == ("[key]",)
            found.setdefault((self._key_path(at, one["loc"]), of_key), []).append(one)
        for (key_path, of_key), errors in found.items():
            if key_path in self._document.failed:
                continue
            location = self._document.at_key(key_path) if of_key else self._document.at(key_path)
            beside = {str(other[-1]) for other in self._document.keys if other[:-1] == key_path[:-1]}
            hidden = self._document.secrets
            for message in in_words(errors, model, key_path[len(at) :], beside=beside, hidden=hidden):
                self._document.report(location, message)

    def _key_path(self, at: KeyPath, loc: tuple[str | int, ...]) -> KeyPath:
        """The key path of one of pydantic's errors: its `loc` without the tags of unions, which no file has."""
        key_path = at
        for step in loc:
            if (*key_path, step) in self._document.values:
                key_path = (*key_path, step)
        return key_path

    # --- ambiguous scalars -------------------------------------------------------------------------------------

    def _settle_ambiguous(self, at: KeyPath, model: type[BaseModel], values: dict[str, Any]) -> None:
        """Report ambiguous scalars among `values`, recommend only readings that are valid there, and take the first."""
        for key_path, scalar in self._document.ambiguous.items():
            steps = key_path[len(at) :]
            if key_path[: len(at)] != at or not steps or steps[0] not in values:
                continue
            fitting = [reading for reading in scalar.readings if not self._errors(at, model, values, key_path, reading)]
            if fitting:  # else the value is reported as wrong anyway
                self._document.report(self._document.at(key_path), scalar.advice(fitting))
                self._document.put(key_path, fitting[0])
                values.update(_with(values, steps, fitting[0]))

    def _settle_booleans(self, at: KeyPath, model: type[BaseModel], values: dict[str, Any]) -> None:
        """Where a number is wanted, turn `true` into text, since pydantic takes it for 1."""
        for steps in _booleans(values):
            if self._errors(at, model, values, (*at, *steps), "true") & {"int_parsing", "float_parsing"}:
                values.update(_with(values, steps, "true"))

    def _errors(
        self, at: KeyPath, model: type[BaseModel], values: dict[str, Any], key_path: KeyPath, value: Any
    ) -> set[str]:
        """The kinds of errors there would be about `value` at `key_path`."""
        changed = _with(values, key_path[len(at) :], value)
        if value is True or value is False:
            self._settle_booleans(at, model, changed)
        try:
            model.model_validate(changed, context=self._context)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            return {str(one["type"]) for one in errors if self._key_path(at, one["loc"]) == key_path}
        return set()

    # --- texts from files --------------------------------------------------------------------------------------

    def texts_from_files(self, at: KeyPath, entry: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
        """`entry` with `token_file: path` turned into `token`, for every key that takes text."""
        result = dict(entry)
        for key in [key for key in file_keys(model) if key in entry]:
            target, key_path = key.removesuffix("_file"), (*at, key)
            del result[key]
            if target in entry:
                self._failed(key_path, f"`{target}` is given, too; keep one of `{target}` and `{key}`")
            else:
                result[target] = self._text_of_file(key_path, entry[key])
                self._document.values[*at, target] = self._document.values[key_path]
                if key_path in self._document.failed:
                    self._document.failed.add((*at, target))
        return result

    def _text_of_file(self, key_path: KeyPath, name: object) -> str:
        if key_path in self._document.failed:
            return ""
        key = key_path[-1]
        if name is None or name == "":
            return self._failed(key_path, f"`{key}` is empty; it has to be the path of a file")
        if not isinstance(name, str):
            return self._failed(key_path, f"`{key}` has to be the path of a file; put it in quotes")
        # The path is not repeated: it may be the secret itself, by mistake.
        try:
            path = Path(self._context["base"], Path(name).expanduser())
            self.files.add(path)
            text = read_file(path).decode("utf-8-sig").replace("\r\n", "\n").rstrip("\r\n")
        except OSError as error:
            where = "" if Path(name).is_absolute() else f", looked for in {self._context['base']}"
            return self._failed(key_path, f"`{key}`: this file can't be read{where}: {error.strerror}")
        except UnicodeDecodeError:
            return self._failed(key_path, f"`{key}`: this file is no text in UTF-8")
        except (ValueError, RuntimeError):  # a character 0, or ~somebody who has no home here
            return self._failed(key_path, f"`{key}`: this can't be the path of a file")
        if not text:
            return self._failed(key_path, f"`{key}`: this file is empty")
        self._document.secrets.add(text)
        return text

    def _failed(self, key_path: KeyPath, message: str) -> str:
        self._document.failed.add(key_path)
        self._document.report(self._document.at(key_path), message)
        return ""


def file_keys(model: type[BaseModel]) -> Iterator[str]:
    """`<key>_file` for each key of `model` that takes text."""
    for key, field in model.model_fields.items():
        if is_text(field) and f"{key}_file" not in model.model_fields:
            yield f"{key}_file"


def _booleans(values: Any, above: KeyPath = ()) -> Iterator[KeyPath]:
    """The key path of each boolean in `values`."""
    if isinstance(values, bool):
        yield above
    elif isinstance(values, dict | list):
        for step, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _booleans(value, (*above, step))


def _with(values: Any, steps: KeyPath, value: object) -> Any:
    """A copy of `values` with `value` at `steps`."""
    if not steps:
        return value
    changed: Any = values.copy()
    changed[steps[0]] = _with(changed[steps[0]], steps[1:], value)
    return changed
