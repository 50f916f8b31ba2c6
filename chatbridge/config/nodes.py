"""Reads YAML into plain values and remembers where each of them stands; knows YAML and its traps, no key of ours.

PyYAML's own loader keeps the last of duplicate keys in silence, and reads `on`, `0123` and `12:30` as something else
than people mean. Here these are complaints. Keys are always text, so that ids may be written without quotes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # seven times as fast where libyaml is there

DEPTH, NODES = 40, 50_000
"""More than anybody writes by hand: deeper or larger documents are accidents, or attacks by aliases."""

Place = tuple[str | int, ...]
"""The way to a value: keys, and positions in lists."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the file, counted from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Complaint:
    """One thing that is wrong, and where."""

    mark: Mark
    message: str


@dataclass(slots=True)
class Document:
    """A YAML file as plain values. `keys` and `values` tell where each key and value stands, by its place.

    `substituted`: values that came, in part, from the environment; they may be secret and are never repeated.
    """

    value: Any = None
    keys: dict[Place, Mark] = field(default_factory=dict)
    values: dict[Place, Mark] = field(default_factory=dict)
    substituted: set[Place] = field(default_factory=set)
    complaints: list[Complaint] = field(default_factory=list)

    def at(self, place: Place) -> Mark:
        """Where the value of `place` stands, or the nearest thing around it that stands somewhere."""
        while place and place not in self.values:
            place = place[:-1]
        return self.values.get(place, Mark())

    def at_key(self, place: Place) -> Mark:
        return self.keys.get(place) or self.at(place)

    def complain(self, mark: Mark, message: str) -> None:
        self.complaints.append(Complaint(mark, message))


def parse(data: bytes, environment: Mapping[str, str]) -> Document:
    """The document in `data`, with `${NAME}` and `${NAME:-default}` filled in from `environment`."""
    document = Document()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        document.complain(_place(before), "this byte is no UTF-8; save the file as UTF-8")
        return document
    try:
        if _fits(text, document):
            root = yaml.compose(text, Loader=_Loader)
            if root is not None:
                document.value = _Reader(document, environment).value(root, (), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.context, error.problem) if part)
        document.complain(_mark(mark) if mark else Mark(), f"this is not YAML: {words}{_advice(words)}")
    except yaml.reader.ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        document.complain(_place(text[:position]), f"this character can't stand in YAML ({error.reason})")
    return document


def _fits(text: str, document: Document) -> bool:
    """Whether the nesting is one that can be read; looked at first, since the parser itself recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH:
                document.complain(_mark(event.start_mark), f"nested more than {DEPTH} deep")
                return False
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return True


class _Reader:
    """Turns PyYAML's nodes into values. An alias is read anew wherever it is used, up to a limit."""

    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment
        self._count = 0

    def value(self, node: yaml.Node, place: Place, above: tuple[int, ...]) -> Any:
        document, mark = self._document, _mark(node.start_mark)
        document.values[place] = mark
        self._count += 1
        if id(node) in above or self._count > NODES:
            if self._count <= NODES + 1:
                document.complain(mark, "this alias holds itself" if id(node) in above else "too many values")
            return None
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, at), above) for at, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, place: Place, above: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in _merged(node):
            mark = _mark(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                self._document.complain(mark, "a key has to be a word or a number")
                continue
            key = key_node.value
            if key in result:
                first = self._document.keys[*place, key].line
                self._document.complain(mark, f"the key {key!r} is here twice, first in line {first}; remove one")
                continue
            self._document.keys[*place, key] = mark
            result[key] = self.value(value_node, (*place, key), above)
        return result

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        text: str = node.value
        mark = _mark(node.start_mark)
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            self._document.complain(mark, f"the tag {node.tag!r} means nothing here; remove it")
            return text
        if "${" in text:
            self._document.substituted.add(place)
            return self._substituted(text, mark)
        if node.style:  # in quotes, or a block
            return text
        value, trap = plain_value(text)
        if trap:
            self._document.complain(mark, trap)
        return value

    def _substituted(self, text: str, mark: Mark) -> str:
        def fill(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "${"
            name, default = match["name"], match["default"]
            if name is None:
                self._document.complain(mark, "write ${NAME} or ${NAME:-default}, or $${ for the two characters")
                return ""
            if value := self._environment.get(name, ""):
                return value
            if default is None:
                what = "is empty" if name in self._environment else "is not set"
                self._document.complain(
                    mark, f"the environment variable {name} {what}; set it, or write ${{{name}:-default}}"
                )
                return ""
            return str(default)

        return _VARIABLE.sub(fill, text)


_VARIABLE = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?")


def plain_value(text: str) -> tuple[Any, str]:
    """What a word without quotes stands for, and a complaint if people mean different things by it."""
    lower = text.lower()
    if lower in ("", "~", "null"):
        return None, ""
    if lower in ("true", "false"):
        return lower == "true", ""
    if lower in ("on", "yes", "off", "no"):
        meant = lower in ("on", "yes")
        return (
            meant,
            f'{text!r} is true or false to some and a word to others; write {str(meant).lower()} or "{text}"',
        )
    if re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text):
        return int(text) if len(text) < 4000 else text, ""
    if re.fullmatch(r"0x[0-9a-fA-F]{1,64}|0o[0-7]{1,64}", text):
        return int(text, 0), ""
    if re.fullmatch(r"[-+]?0[0-9]+", text):
        return (
            text,
            f'{text!r} with its leading 0 is another number to some; write {int(text)} or "{text}"',
        )
    if re.fullmatch(r"[-+]?[0-9][0-9]*(_[0-9]+)+", text):
        return (
            text,
            f'{text!r} is a number to some and a word to others; write {text.replace("_", "")} or "{text}"',
        )
    if re.fullmatch(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?", text):
        return text, f'{text!r} is a count of seconds to some and a word to others; write "{text}"'
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", text):
        number = float(text)
        return number, "" if math.isfinite(number) else f"{text} is no number that can be used"
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return text, f"{text} is no number that can be used"
    return text, ""


def _merged(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    """The entries of a mapping, with those of its `<<` behind its own and without those it has itself."""
    own = [(key, value) for key, value in node.value if key.tag != "tag:yaml.org,2002:merge"]
    have = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
    for key, value in node.value:
        if key.tag != "tag:yaml.org,2002:merge":
            continue
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(source, yaml.MappingNode) and source is not node:
                for inner, inherited in source.value:
                    if isinstance(inner, yaml.ScalarNode) and inner.value not in {*have, "<<"}:
                        have.add(inner.value)
                        own.append((inner, inherited))
    return own


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _place(before: str) -> Mark:
    """The place right after `before`."""
    lines = re.split(r"\r\n|[\n\r]", before)
    return Mark(len(lines), len(lines[-1]) + 1)


def _advice(words: str) -> str:
    for sign, advice in _ADVICE.items():
        if sign in words:
            return f"; {advice}"
    return ""


_ADVICE = {
    "'\\t'": "indent by blanks, not by tabs",
    "did not find expected ',' or '}'": "put a ${VARIABLE} between braces in quotes",
    "mapping values are not allowed": "put the text in quotes if it holds ': '",
    "expected a single document": "keep one document in the file, without a second '---'",
    "cannot start any token": "put the text in quotes",
    "expected <block end>": "look at the indentation of this line and of the one before",
    "could not find expected ':'": "a key is followed by ': ' and its value",
    "undefined alias": "define it by & before using it by *",
}
