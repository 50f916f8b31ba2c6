"""Reads YAML into plain values and remembers where each of them stands; knows YAML and its traps, no key of ours.

PyYAML's own loader silently keeps the last of duplicate keys, and reads `on`, `0123` and `12:30` as something else
than people mean. Here these are errors. Keys are always text, so that ids may be written without quotes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from chatbridge.config import mistypings
from chatbridge.config.scalars import AmbiguousScalar, plain_value

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # seven times as fast where libyaml is there

MAX_DEPTH, MAX_NODES = 40, 50_000
"""More than anybody writes by hand: deeper or larger documents are accidents, or attacks by aliases."""

KeyPath = tuple[str | int, ...]
"""The way to a value: keys of mappings, and positions in lists."""


@dataclass(frozen=True, slots=True, order=True)
class SourceLocation:
    """A place in a file; lines and columns are counted from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """One error in a file, and where it is."""

    location: SourceLocation
    message: str


@dataclass(slots=True)
class Document:
    """A YAML file as plain values, with its errors.

    `keys` and `values`: where each key and each value stands.
    `ambiguous`: words that can be read in several ways; whoever knows what is wanted there reports them.
    `failed`: values that can't be made out; an error has been reported for each.
    `substituted`: values that came, in part, from the environment. They may be secret and are never repeated; nor is
    anything in `secrets`. `variables`: the names of those that were read.
    `lines`: the file as it stands.
    """

    value: Any = None
    keys: dict[KeyPath, SourceLocation] = field(default_factory=dict)
    values: dict[KeyPath, SourceLocation] = field(default_factory=dict)
    ambiguous: dict[KeyPath, AmbiguousScalar] = field(default_factory=dict)
    failed: set[KeyPath] = field(default_factory=set)
    substituted: set[KeyPath] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def at(self, key_path: KeyPath) -> SourceLocation:
        """Where the value at `key_path` stands; for one that was not written, the nearest value around it."""
        while key_path and key_path not in self.values:
            key_path = key_path[:-1]
        return self.values.get(key_path, SourceLocation())

    def at_key(self, key_path: KeyPath) -> SourceLocation:
        """Where the last key of `key_path` stands; for an item of a list, which has no key, the item."""
        return self.keys.get(key_path) or self.at(key_path)

    def put(self, key_path: KeyPath, value: object) -> None:
        """Replace the value at `key_path`."""
        around = self.value
        for step in key_path[:-1]:
            around = around[step]
        around[key_path[-1]] = value

    def told(self) -> list[Diagnostic]:
        """The errors in their order; the first of a line says, too, what is mistyped there."""
        told: list[Diagnostic] = []
        for one in sorted(set(self.diagnostics)):
            first = not told or told[-1].location.line != one.location.line
            mistyped = mistypings.advice(self.lines[one.location.line - 1]) if first and self.lines else None
            more = f"; {mistyped[1]}" if mistyped and mistyped[1] not in one.message else ""
            told.append(Diagnostic(one.location, one.message + more))
        return told

    def report(self, location: SourceLocation, message: str) -> None:
        """Add an error to `diagnostics`; `message` says what is wrong and what to do."""
        # On one line, and without codes that a terminal would obey: names may hold anything.
        shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in message)
        self.diagnostics.append(Diagnostic(location, shown))


def parse(data: bytes, environment: Mapping[str, str]) -> Document:
    """The document in `data`, with `${NAME}` and `${NAME:-default}` filled in from `environment`."""
    document = Document()
    try:
        text = data.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8").lstrip("\ufeff")
        document.report(_Lines(before).location(len(before)), "this byte is no UTF-8; save the file as UTF-8")
        return document
    lines = _Lines(text)
    document.lines = _LINE_END.split(text)
    if strange := _STRANGE.search(text):
        what = f"the character U+{ord(strange[0]):04X} can't stand in YAML; remove it"
        document.report(lines.location(strange.start()), what)
        return document
    try:
        if _nested_well(text, lines, document):
            root = yaml.compose(text, Loader=_Loader)
            if root is not None:
                document.value = _Reader(document, lines, environment).value(root, (), ())
    except yaml.MarkedYAMLError as error:
        document.report(*_parser_error(error, document.lines, lines))
    except _TooLarge:
        document.report(
            SourceLocation(), f"there are more than {MAX_NODES} values, those of aliases counted; make do with less"
        )
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # without libyaml any number is a character's
        document.report(SourceLocation(), f"this is not YAML: {error}")
    return document


def _parser_error(error: yaml.MarkedYAMLError, text: Sequence[str], lines: _Lines) -> tuple[SourceLocation, str]:
    mark = error.problem_mark or error.context_mark
    index = mark.index if mark else 0
    location = lines.location(index)
    words = ", ".join(part for part in (error.context, error.problem) if part)
    # libyaml has a limit of its own, far beyond ours, and may come upon it first, since it looks ahead.
    if "maximum nesting depth" in words:
        return location, f"nested more than {MAX_DEPTH} deep"
    context = lines.location(error.context_mark.index).line if error.context_mark else None
    if found := mistypings.of_parser(text, location.line, context, words):
        line, column, advice = found
        return SourceLocation(line, column), advice
    return location, f"this is not YAML: {words}{_advice(words)}"


_STRANGE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML allows nowhere (its section 5.1): control characters and such."""


def _nested_well(text: str, lines: _Lines, document: Document) -> bool:
    """Whether the nesting is shallow enough to read. Checked first, since composing recurses. Reports tags, too."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        location = lines.location(event.start_mark.index if event.start_mark else 0)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            document.report(location, f"the tag {tag!r} means nothing here; remove it, and put in quotes what is text")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                document.report(location, f"nested more than {MAX_DEPTH} deep")
                return False
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return True


class _TooLarge(Exception):
    """There are more values than anybody writes."""


class _Reader:
    """Turns PyYAML's nodes into values. An alias is read anew wherever it is used, up to a limit."""

    def __init__(self, document: Document, lines: _Lines, environment: Mapping[str, str]) -> None:
        self._document = document
        self._lines = lines
        self._environment = environment
        self._count = 0

    def value(self, node: yaml.Node, key_path: KeyPath, above: tuple[int, ...]) -> Any:
        self._document.values[key_path] = self._location(node)
        self._count += 1
        if self._count > MAX_NODES:
            raise _TooLarge
        if id(node) in above:
            self._document.report(self._location(node), "this alias holds itself; write out what is meant")
            self._document.failed.add(key_path)
            return None
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key_path, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*key_path, at), above) for at, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, key_path)

    def _mapping(self, node: yaml.MappingNode, key_path: KeyPath, above: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in self._merged(node):
            location = self._location(key_node)
            key = _key_text(key_node)
            if not key:
                self._document.report(location, "a key has to be a word or a number")
                continue
            if mistyped := mistypings.invisible(key):
                self._document.report(location, mistyped)
                continue
            if key in result:
                first = self._document.keys[*key_path, key].line
                self._document.report(location, f"the key {key!r} is here twice, first in line {first}; remove one")
                continue
            self._document.keys[*key_path, key] = location
            result[key] = self.value(value_node, (*key_path, key), above)
        return result

    def _merged(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """The entries of a mapping, then those that only `<<` gives it; of two with one key, the first counts."""
        have: set[str | None] = set()
        seen: set[int] = set()  # also what keeps a mapping that merges itself from going round and round
        waiting: list[yaml.Node] = [node]
        while waiting:
            source = waiting.pop()
            if id(source) in seen:
                continue
            seen.add(id(source))
            if not isinstance(source, yaml.MappingNode):
                self._document.report(self._location(source), "`<<` takes a mapping, or a list of some, as *name")
                continue
            own = [(key, value) for key, value in source.value if key.tag != _MERGE]
            yield from [(key, value) for key, value in own if _key_text(key) not in have]
            have |= {_key_text(key) for key, _ in own}
            merges = [value for key, value in source.value if key.tag == _MERGE]
            for value in reversed(merges):
                waiting += reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]

    def _scalar(self, node: yaml.ScalarNode, key_path: KeyPath) -> Any:
        text: str = node.value
        if "${" in text:
            return self._substituted(text, key_path, self._location(node))
        if _OTHER_VARIABLE.fullmatch(text):
            self._document.report(self._location(node), "a variable of the environment is written ${NAME}")
            self._document.failed.add(key_path)
            return ""
        if node.style:  # in quotes, or a block
            return text
        value, ambiguous = plain_value(text)
        if ambiguous is not None:
            self._document.ambiguous[key_path] = ambiguous
        return value

    def _substituted(self, text: str, key_path: KeyPath, location: SourceLocation) -> str:
        def fill(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "${"
            name, default = match["name"], match["default"]
            if name is None:
                self._document.report(location, "write ${NAME} or ${NAME:-default}, or $${ for the two characters")
                self._document.failed.add(key_path)
                return ""
            if value := self._environment.get(name, ""):
                self._document.secrets.add(value)
                self._document.variables.add(name)
                self._document.substituted.add(key_path)
                return value
            if default is None:
                what = "is empty" if name in self._environment else "is not set"
                self._document.report(
                    location, f"the environment variable {name} {what}; set it, or write ${{{name}:-default}}"
                )
                self._document.failed.add(key_path)
                return ""
            return str(default)

        return _VARIABLE.sub(fill, text)

    def _location(self, node: yaml.Node) -> SourceLocation:
        return self._lines.location(node.start_mark.index)


def _key_text(key: yaml.Node) -> str | None:
    """A key as text; None for lists and mappings, which can't be keys here."""
    return str(key.value) if isinstance(key, yaml.ScalarNode) else None


_OTHER_VARIABLE = re.compile(r"\$\(?(?:env:)?[A-Z_][A-Z0-9_]+\)?|%[A-Z_][A-Z0-9_]+%")
"""As shells write variables. Nobody means such a text to the letter."""

_MERGE = "tag:yaml.org,2002:merge"
_VARIABLE = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?")


_LINE_END = re.compile(r"\r\n|\n|\r")


class _Lines:
    """Lines as editors count them; YAML ends a line at some more characters."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]

    def location(self, index: int) -> SourceLocation:
        line = bisect_right(self._starts, index)
        return SourceLocation(line, index - self._starts[line - 1] + 1)


def _advice(words: str) -> str:
    """What to do about one of the parser's errors."""
    return next((f"; {advice}" for sign, advice in _ADVICE.items() if sign in words), "")


_ADVICE = {
    "expected ',' or '}'": "put text that holds { or } in quotes, also a ${VARIABLE} between braces",
    "mapping values are not allowed": "put the text in quotes if it holds ': '",
    "expected a single document": "keep one document in the file, without a second '---'",
    "cannot start any token": "put the text in quotes",
    "expected <block end>": "look at the indentation of this line and of the one before",
    "did not find expected key": "look at the indentation of this line and of the one before",
    "did not find expected '-' indicator": "look at the indentation of this line and of the one before",
    "could not find expected ':'": "a key is followed by ': ' and its value",
    "scanning an alias": "put text in quotes that begins with *",
    "escape c": "a \\ inside \"…\" begins a code; write a path with / or inside '…'",
    "undefined alias": "define it by & before using it by *",
}
