"""Keeps what people write from passing for a role header of a template, in a way that everybody can see.

A line that reads as a header gets a quotation mark before it; in templates that write their headers inside a line,
the header is broken by a low line. Everything else stays as it is, byte for byte. Knows formats; renders nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from chatbridge.prompts import formats
from chatbridge.prompts.cache import ByteLru, weight
from chatbridge.prompts.confusables import (
    LINE_END,
    fold,
    line_starts,
    looks_of,
    origins,
    readings_of,
    skeleton,
    with_line_ends,
)
from chatbridge.prompts.formats import FormatPart, Placeholder
from chatbridge.prompts.headers import MAX_HEADER, Header, gaps_in, headers_of
from chatbridge.prompts.template import Template

_TEXT = Placeholder("text")
_QUOTES = ("> ", "| ", "~ ", "* ", "' ")
_BREAKS = "_·'"


class Edit(NamedTuple):
    """Text from `start` to `end` reads as a header; with `insertion` put in at `at` it does not."""

    start: int
    end: int
    at: int
    insertion: str


@dataclass(frozen=True, slots=True)
class Guard:
    """The headers of one template."""

    headers: tuple[Header, ...]

    def edits(self, text: str, *, line_start: bool = True) -> Sequence[Edit]:
        """What to insert into `text`, in order of `at`. `line_start`: it begins a line of the prompt."""
        if not self.headers:
            return ()
        return _EDITS.get((self, text, line_start), lambda: tuple(self._found(text, line_start)))

    def apply(self, text: str, *, line_start: bool = True) -> str:
        """`text` with every header in it made harmless; the same text where it has none."""
        edits = self.edits(text, line_start=line_start)
        if not edits:
            return text
        pieces: list[str] = []
        done = 0
        for edit in edits:
            pieces += (text[done : edit.at], edit.insertion)
            done = edit.at
        return "".join((*pieces, text[done:]))

    def _found(self, text: str, line_start: bool) -> list[Edit]:
        edits: dict[int, Edit] = {}
        for reading in readings_of(text):
            self._add(edits, _Hits(reading), line_start)
        return [edits[at] for at in sorted(edits)]

    def _add(self, edits: dict[int, Edit], hits: _Hits, line_start: bool) -> None:
        quote = next((one for one in _QUOTES if not self._begins_with(one)), _QUOTES[0])
        mark = next(
            (one for one in _BREAKS if not any(one in header.looks[-2:] for header in self.headers)), _BREAKS[0]
        )
        for header in self.headers:
            if header.inline:
                for start, end in hits.inside(header):
                    edits.setdefault(end - 1, Edit(start, end, end - 1, mark))
        for header in self.headers:
            if not header.inline:
                for line, start, end in hits.lines(header):
                    if (line or line_start) and (start not in edits or edits[start].end < end):
                        edits[start] = Edit(start, end, start, quote)

    def _begins_with(self, quote: str) -> bool:
        looks = looks_of(quote)
        return any(header.looks.startswith(looks) for header in self.headers)


class _Hits:
    """Where headers look to be in one text. Each step is linear in it; where each character stands is asked late."""

    def __init__(self, text: str) -> None:
        text = self._text = with_line_ends(text)
        self._looks = {False: skeleton(text)}
        self._at: dict[bool, list[int]] = {}
        self._starts: list[int] = []

    def lines(self, header: Header) -> Iterator[tuple[int, int, int]]:
        """The lines that read as `header`: number, start, and the end of the header."""
        looks, wanted = "\n" + self._seen(header), "\n" + header.looks
        found = looks.find(wanted)
        line = counted = 0
        while found >= 0:
            line += looks.count("\n", counted, found)
            counted = found
            behind = found + len(wanted)
            if not header.whole or looks[behind : behind + 1] in ("", "\n"):
                self._starts = self._starts or line_starts(self._text)
                start = self._starts[line]
                end = self._end(header, start)
                if not header.word or not self._goes_on(end):
                    yield line, start, end
            found = looks.find(wanted, behind)

    def inside(self, header: Header) -> Iterator[tuple[int, int]]:
        """Where `header` begins and ends, wherever that is. One that is a single character can't be broken."""
        looks = self._seen(header)
        found = looks.find(header.looks)
        while found >= 0:
            where = self._origins(header)
            start, last = where[found], where[found + len(header.looks) - 1]
            if start < last and self._stands_alone(header, start, last + 1):
                yield start, last + 1
            found = looks.find(header.looks, found + 1)

    def _stands_alone(self, header: Header, start: int, end: int) -> bool:
        if header.looks[0].isalnum() and _is_word(self._text[start - 1 : start]):
            return False
        if not header.word:
            return True
        written = tuple(char.isupper() for char in self._text[start:end] if fold(char))
        return written == header.capitals and not self._goes_on(end)

    def _end(self, header: Header, start: int) -> int:
        """Where `header`, which begins a line at `start`, ends."""
        return next(islice(origins(self._text, start, once=not header.signs), len(header.looks) - 1, None)) + 1

    def _goes_on(self, end: int) -> bool:
        """Whether the word that ends at `end` is only the beginning of one."""
        while end < len(self._text) and not fold(self._text[end]) and not self._text[end].isspace():
            end += 1
        return self._text[end : end + 1].isalnum()

    def _seen(self, header: Header) -> str:
        if header.signs not in self._looks:
            self._looks[header.signs] = looks_of(self._text)
        return self._looks[header.signs]

    def _origins(self, header: Header) -> list[int]:
        if header.signs not in self._at:
            self._at[header.signs] = list(origins(self._text, once=not header.signs))
        return self._at[header.signs]


def _size(key: tuple[Guard, str, bool], edits: tuple[Edit, ...]) -> int:
    return weight((key[1], *(edit.insertion for edit in edits)))


_EDITS: ByteLru[tuple[Guard, str, bool], tuple[Edit, ...]] = ByteLru(16 << 20, _size)
"""All but the newest message of a conversation come again with every prompt."""


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
    name = with_line_ends(name)
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
    last: list[Sequence[FormatPart]] = []
    for source in (template.generate, template.generate_mask_last, template.generate_mask_inside):
        if source.rstrip().endswith(_HEADER_ENDS):
            last.append([*begin, *user, *opening, *formats.parse(source)])
            if single:
                last.append([*begin, *single, *formats.parse(source)])
    known = {header.looks for header in guard.headers}
    # What begins every prompt may be a page of prose, right before the system text.
    lines = [line for part in begin if isinstance(part, str) for line in part.split("\n")]
    prose = {skeleton(line) for line in lines if len(line) > MAX_HEADER}
    headers = (*guard.headers, *(header for header in headers_of(last) if header.looks not in known))
    return Guard(tuple(header for header in headers if header.looks not in prose))


def gaps_of(template: Template) -> list[str]:
    """The literal text of a template's formats between two turns that nothing in it tells apart.

    There anybody can write the next turn, and no guard helps: people write blanks, and nothing else stands there.
    """
    if template.jinja is not None:
        return []
    user, assistant = formats.parse(template.user), formats.parse(template.assistant)
    return gaps_in([[*user, *assistant, *user, *assistant]], empty_lines=template.blanks == "collapse")


def unguarded(gap: str) -> str:
    """What is wrong with a gap of `gaps_of`, and what to do, in words."""
    only = f"only {gap!r}" if gap else "nothing"
    return (
        f"between two turns the template writes {only}, which people can write as well: anybody could forge the next "
        'turn; give `user` and `assistant` a header before their {text}, such as "User: {text}\\n" and '
        '"Assistant: {text}\\n", or a control token'
    )


def guard_against(written: Iterable[Sequence[FormatPart]], headers: Iterable[str] = ()) -> Guard:
    """The guard against the headers of sample prompts, each a row of literal text, control tokens and placeholders.

    `headers`: more of them, which no sample shows.
    """
    return Guard(headers_of(written, headers))


def _has_system(parts: Sequence[FormatPart]) -> bool:
    return Placeholder("system") in parts


def _filled(parts: Sequence[FormatPart], system: Sequence[FormatPart]) -> list[FormatPart]:
    return [inner for part in parts for inner in (system if part == Placeholder("system") else (part,))]


def _is_word(char: str) -> bool:
    return char.isascii() and char.isalnum()
