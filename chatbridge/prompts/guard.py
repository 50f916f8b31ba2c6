"""Keeps what people write from passing for a role header of a template, in a way that everybody can see.

A line that reads as a header gets a quotation mark before it; in templates that write their headers inside a line,
the header is broken by a low line. Everything else stays as it is, byte for byte. Knows formats; renders nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from chatbridge.prompts import formats
from chatbridge.prompts.confusables import LINE_END, skeleton
from chatbridge.prompts.formats import Control, FormatPart, Placeholder
from chatbridge.prompts.template import Template

_LONGEST = 64
"""Letters that a header has at most; longer lines of a template are prose."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A header as a reader sees it. `whole`: only a line that says just this reads as one."""

    looks: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Edit:
    """Text between `start` and `end` reads as a header; inserting `mark` at `at` ends that."""

    start: int
    end: int
    at: int
    mark: str


@dataclass(frozen=True, slots=True)
class Guard:
    """The headers of one template. `inline`: they count anywhere, not only where a line begins."""

    marks: tuple[Mark, ...]
    inline: bool = False

    def edits(self, text: str, *, line_start: bool = True) -> list[Edit]:
        """What to insert, in order. `line_start`: the text begins a line of the prompt."""
        return list(_edits(self, text, line_start)) if self.marks else []

    def apply(self, text: str, *, line_start: bool = True) -> str:
        """`text` with every header in it made harmless; the same text where it has none."""
        for edit in reversed(self.edits(text, line_start=line_start)):
            text = text[: edit.at] + edit.mark + text[edit.at :]
        return text

    def found(self, text: str, line_start: bool) -> Iterator[Edit]:
        """The edits, one by one."""
        return self._inside(text) if self.inline else self._lines(text, line_start)

    def _lines(self, text: str, line_start: bool) -> Iterator[Edit]:
        limit = max(len(mark.looks) for mark in self.marks)
        quote = "| " if any(mark.looks.startswith(">") for mark in self.marks) else "> "
        starts = [0] if line_start else []
        for start in (*starts, *(match.end() for match in LINE_END.finditer(text))):
            looks, places = skeleton(text, start, limit=limit, line=True)
            for mark in self.marks:
                if looks == mark.looks or (not mark.whole and looks.startswith(mark.looks)):
                    yield Edit(start, places[len(mark.looks) - 1] + 1, start, quote)
                    break

    def _inside(self, text: str) -> Iterator[Edit]:
        looks, places = skeleton(text)
        found: dict[int, Edit] = {}
        for mark in self.marks:
            at = looks.find(mark.looks)
            while at >= 0:
                start, last = places[at], places[at + len(mark.looks) - 1]
                if not (mark.looks[0].isalnum() and _is_word(text[start - 1 : start])):
                    found[last] = Edit(start, last + 1, last, "_")
                at = looks.find(mark.looks, at + 1)
        return iter(sorted(found.values(), key=lambda edit: edit.at))


@lru_cache(4096)
def _edits(guard: Guard, text: str, line_start: bool) -> tuple[Edit, ...]:
    """All but the newest message of a conversation come again with every prompt."""
    return tuple(guard.found(text, line_start))


def neutralise(text: str, template: Template, *, line_start: bool = True) -> str:
    """`text` with visible marks where it would read as a role header of `template`; honest text as it is.

    Half characters (lone surrogates) become U+FFFD. For templates with `jinja`, `render` knows the headers.
    """
    return guard_of(template).apply(clean(text), line_start=line_start)


def clean(text: str) -> str:
    """`text` as valid Unicode: half characters become U+FFFD, halves that belong together are put together."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_name(name: str) -> str:
    """A display name on one line."""
    name = "".join(" " if LINE_END.fullmatch(char) or ord(char) < 32 else char for char in clean(name))
    return " ".join(name.split())


@lru_cache(maxsize=128)
def guard_of(template: Template) -> Guard:
    """The guard of a template's own formats; for one with `jinja`, of its `headers` and `stop` alone."""
    begin, system, user = (formats.parse(source) for source in (template.begin, template.system_turn, template.user))
    assistant, single = formats.parse(template.assistant), formats.parse(template.single or "")
    said = [*assistant, *user, *assistant]
    written: list[Sequence[FormatPart]] = []
    if template.jinja is None:
        written.append([*begin, *user, *said])
        written.append([*begin, *(() if _has_system(user) else system), *_filled(user, system), *said])
        written.append([*begin, *_filled(single, system)])
    return guard_against(written, (*template.headers, *template.stop))


def guard_against(written: Iterable[Sequence[FormatPart]], headers: Iterable[str] = ()) -> Guard:
    """The guard of prompts as they are written, each a row of literal text, control tokens and places for text."""
    marks: dict[Mark, None] = {}
    inline = False
    for parts in written:
        for piece, starts_line in _pieces(parts):
            if mark := _mark(piece):
                marks[mark] = None
                inline = inline or not starts_line
    for header in headers:
        if mark := _mark(header):
            marks[mark] = None
    if inline:  # A bare word inside a line is no header: it would be every such word.
        return Guard(tuple(mark for mark in marks if not mark.whole), inline=True)
    return Guard(tuple(marks))


def _pieces(parts: Sequence[FormatPart]) -> Iterator[tuple[str, bool]]:
    """The lines of the literal text, and whether each begins a line of the prompt."""
    before: FormatPart | None = None
    for part in _without_rounds(parts):
        if isinstance(part, str):
            first, *others = part.split("\n")
            # `<|im_start|>user`: nobody can write the token, so the word after it is only a word.
            if not (isinstance(before, Control) and _is_words(first)):
                yield first, not isinstance(before, Placeholder)
            yield from ((other, True) for other in others)
        before = part


def _mark(piece: str) -> Mark | None:
    piece = piece.strip()
    if numbered := re.match(r"(\W*\w*[^\W\d]\s*)\d", piece):  # `[Round 1]` stands for every number
        looks, _ = skeleton(numbered[1])
        return Mark(looks)
    looks, _ = skeleton(piece)
    if len(looks) > _LONGEST or not any(char.isalnum() for char in looks):
        return None
    return Mark(looks, whole=looks[-1].isalnum())


def _without_rounds(parts: Sequence[FormatPart]) -> Iterator[FormatPart]:
    text = ""
    for part in parts:
        if isinstance(part, str) or part == Placeholder("round"):
            text += part if isinstance(part, str) else "0"
        elif part != Placeholder("system"):
            if text:
                yield text
            text = ""
            yield part
    if text:
        yield text


def _has_system(parts: Sequence[FormatPart]) -> bool:
    return Placeholder("system") in parts


def _filled(parts: Sequence[FormatPart], system: Sequence[FormatPart]) -> list[FormatPart]:
    return [inner for part in parts for inner in (system if part == Placeholder("system") else (part,))]


def _is_words(piece: str) -> bool:
    return piece.replace(" ", "").replace("_", "").isalnum()


def _is_word(char: str) -> bool:
    return char.isascii() and char.isalnum()
