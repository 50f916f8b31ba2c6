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

_MAX_HEADER = 64
"""Characters that a header has at most; longer lines of a template are prose."""


_TEXT = Placeholder("text")


@dataclass(frozen=True, slots=True)
class Header:
    """A role header. `looks`: its skeleton, see `confusables`. `whole`: it must be the whole line to read as one."""

    looks: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Edit:
    """Text from `start` to `end` reads as a header; with `insertion` put in at `at` it does not."""

    start: int
    end: int
    at: int
    insertion: str


@dataclass(frozen=True, slots=True)
class Guard:
    """The headers of one template. `inline`: they count anywhere in a line, not only at its beginning."""

    headers: tuple[Header, ...]
    inline: bool = False

    def edits(self, text: str, *, line_start: bool = True) -> list[Edit]:
        """What to insert into `text`, in order. `line_start`: it begins a line of the prompt."""
        return list(_edits(self, text, line_start)) if self.headers else []

    def apply(self, text: str, *, line_start: bool = True) -> str:
        """`text` with every header in it made harmless; the same text where it has none."""
        for edit in reversed(self.edits(text, line_start=line_start)):
            text = text[: edit.at] + edit.insertion + text[edit.at :]
        return text

    def found(self, text: str, line_start: bool) -> Iterator[Edit]:
        """The edits, one by one."""
        return self._inside(text) if self.inline else self._lines(text, line_start)

    def _lines(self, text: str, line_start: bool) -> Iterator[Edit]:
        limit = max(len(header.looks) for header in self.headers)
        quote = "| " if any(header.looks.startswith(">") for header in self.headers) else "> "
        starts = [0] if line_start else []
        for start in (*starts, *(match.end() for match in LINE_END.finditer(text))):
            looks, origins = skeleton(text, start, limit=limit, line=True)
            for header in self.headers:
                if looks == header.looks or (not header.whole and looks.startswith(header.looks)):
                    yield Edit(start, origins[len(header.looks) - 1] + 1, start, quote)
                    break

    def _inside(self, text: str) -> Iterator[Edit]:
        looks, origins = skeleton(text)
        found: dict[int, Edit] = {}
        for header in self.headers:
            at = looks.find(header.looks)
            while at >= 0:
                start, last = origins[at], origins[at + len(header.looks) - 1]
                if not (header.looks[0].isalnum() and _is_word(text[start - 1 : start])):
                    found[last] = Edit(start, last + 1, last, "_")
                at = looks.find(header.looks, at + 1)
        return iter(sorted(found.values(), key=lambda edit: edit.at))


@lru_cache(4096)
def _edits(guard: Guard, text: str, line_start: bool) -> tuple[Edit, ...]:
    """`Guard.found`, remembered: all but the newest message of a conversation come again with every prompt."""
    return tuple(guard.found(text, line_start))


def neutralise(text: str, template: Template, *, line_start: bool = True) -> str:
    """`text` with a visible quotation mark or low line where it would read as a role header of `template`.

    Honest text stays as it is.

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


_HEADER_ENDS = (":", "：", "]", ">")
"""What the name of a role ends with where it is plain text."""


@lru_cache(maxsize=128)
def guard_of(template: Template) -> Guard:
    """The guard of a template's own formats; for one with `jinja`, of its `headers` and `stop` alone."""
    more = (*template.headers, *template.stop)
    if template.jinja is not None:
        return guard_against((), more)
    begin, system, user = (formats.parse(source) for source in (template.begin, template.system_turn, template.user))
    assistant, single = formats.parse(template.assistant), formats.parse(template.single or "")
    rounds = [*assistant, *user, *assistant]
    written: list[Sequence[FormatPart]] = [
        [*begin, *user, *rounds],
        [*begin, *(() if _has_system(user) else system), *_filled(user, system), *rounds],
        [*begin, *_filled(single, system)],
    ]
    guard = guard_against(written, more)
    # What is written only before the new answer may be a header, too; what an answer begins with ("1.") is none.
    opening = assistant[: assistant.index(_TEXT)] if _TEXT in assistant else ()
    for source in (template.generate, template.generate_mask_last, template.generate_mask_inside):
        if source.rstrip().endswith(_HEADER_ENDS):
            written.append([*begin, *user, *opening, *formats.parse(source)])
            if single:
                written.append([*begin, *single, *formats.parse(source)])
    wider = guard_against(written, more)
    # A guard of headers within lines leaves words alone that are headers by themselves.
    return guard if wider.inline and not guard.inline else wider


def guard_against(written: Iterable[Sequence[FormatPart]], headers: Iterable[str] = ()) -> Guard:
    """The guard against the headers of sample prompts, each a row of literal text, control tokens and placeholders.

    `headers`: more of them, which no sample shows.
    """
    found: dict[Header, None] = {}
    inline = False
    for parts in written:
        for piece, starts_line in _pieces(parts):
            if header := _header(piece):
                found[header] = None
                inline = inline or not starts_line
    for text in headers:
        if header := _header(text):
            found[header] = None
    if inline:  # A bare word inside a line is no header: it would be every such word.
        return Guard(tuple(header for header in found if not header.whole), inline=True)
    return Guard(tuple(found))


def _pieces(parts: Sequence[FormatPart]) -> Iterator[tuple[str, bool]]:
    """Each line of the literal text, and whether it begins a line of the prompt."""
    before: FormatPart | None = None
    for part in _without_rounds(parts):
        if isinstance(part, str):
            first, *others = part.split("\n")
            # `<|im_start|>user`: nobody can write the token, so the word after it is only a word.
            if not (isinstance(before, Control) and _is_words(first)):
                yield first, not isinstance(before, Placeholder)
            yield from ((other, True) for other in others)
        before = part


def _header(piece: str) -> Header | None:
    piece = piece.strip()
    if numbered := re.match(r"(\W*\w*[^\W\d]\s*)\d", piece):  # `[Round 1]` stands for every number
        looks, _ = skeleton(numbered[1])
        return Header(looks)
    looks, _ = skeleton(piece)
    if len(looks) > _MAX_HEADER or not any(char.isalnum() for char in looks):
        return None
    return Header(looks, whole=looks[-1].isalnum())


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
