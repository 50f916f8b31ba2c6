"""Finds the role headers in what a template writes, and the places where it writes none that anybody could tell.

Works on sample prompts: rows of literal text, control tokens and placeholders. Knows no text of people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from chatbridge.prompts.confusables import looks_of, skeleton
from chatbridge.prompts.formats import Control, FormatPart, Placeholder
from chatbridge.prompts.marks import marks_in, without_marks

MAX_HEADER = 64
"""Characters that a line has at most to be a header where nobody's text is next to it; longer ones are prose."""

_TEXT = Placeholder("text")


@dataclass(frozen=True, slots=True)
class Header:
    """A role header.

    `looks`: its skeleton, see `confusables`; of a header of signs alone each sign, however often it is there. `whole`:
    it must be the whole line to read as one. `inline`: it counts anywhere in a line, not only where one begins.
    `word`: a bare word that text follows on the same line; it ends where no letter follows. `capitals`: which letters
    of such a word are capital where it stands inside lines, for there it is a header only as it is written.
    """

    looks: str
    whole: bool = False
    inline: bool = False
    word: bool = False
    capitals: tuple[bool, ...] = ()

    @property
    def signs(self) -> bool:
        """There is neither a letter nor a digit in it."""
        return _is_signs(self.looks)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A line of literal text. `starts_line`: it begins one; `near`: text of somebody is right before or behind it."""

    text: str
    starts_line: bool
    near: bool
    goes_on: bool


def headers_of(written: Iterable[Sequence[FormatPart]], more: Iterable[str] = ()) -> tuple[Header, ...]:
    """The headers of sample prompts, and `more` that no sample shows."""
    found: dict[Header, None] = {}
    for parts in written:
        for run in _runs(parts):
            for header in _headers(run):
                found[header] = None
    for text in more:
        if given := _header(_Piece(text, True, True, False)):
            found[given] = None
    if any(header.inline for header in found):  # Those with a sign count everywhere then; a bare word where it stood.
        found = {
            header if header.whole or header.word else replace(header, inline=True): None for header in found
        }  # fmt: skip
    return tuple(found)


def gaps_in(written: Iterable[Sequence[FormatPart]], *, empty_lines: bool) -> list[str]:
    """The literal text between two turns, where it holds nothing that could be kept from people.

    `empty_lines`: people can't write them, so that one tells turns apart.
    """
    found: dict[str, None] = {}
    for parts in written:
        runs = list(_runs(parts))
        # Before the first text stands what begins the prompt, and behind the last one nobody's.
        for run in runs[1:-1]:
            literal = "".join(part for part in run if isinstance(part, str))
            if any(isinstance(part, Control) and part.token for part in run):
                continue
            if empty_lines and re.search(r"\n\s*\n", literal):
                continue
            if not any(_breakable(header) for header in _headers(run)):
                found[literal] = None
    return list(found)


def _breakable(header: Header) -> bool:
    """Whether something can be put into it, or before its line."""
    return not header.inline or len(header.looks) > 1


def _runs(parts: Sequence[FormatPart]) -> Iterator[list[FormatPart]]:
    """What stands between two texts of somebody, with the text that follows."""
    run: list[FormatPart] = []
    for part in _without_rounds(parts):
        run.append(part)
        if part == _TEXT:
            yield run
            run = [part]
    yield run


def _headers(run: Sequence[FormatPart]) -> list[Header]:
    pieces = list(_pieces(run))
    found = [header for piece in pieces for header in (_marks(piece) or filter(None, [_header(piece)]))]
    if found or any(isinstance(part, Control) and part.token for part in run):
        return found
    # Signs are a header where nothing else is: a row of them stands in many an honest text.
    signs = [piece for piece in pieces if piece.near and _is_signs(looks_of(piece.text))]
    return [_of_signs(piece) for piece in signs[-1:]] if run[-1:] == [_TEXT] else []


def _pieces(run: Sequence[FormatPart]) -> Iterator[_Piece]:
    """Each line of the literal text of a run."""
    for at, part in enumerate(run):
        if not isinstance(part, str):
            continue
        before = run[at - 1] if at else None
        after = run[at + 1] if at + 1 < len(run) else None
        lines = part.split("\n")
        seen = [number for number, line in enumerate(lines) if line.strip()]
        near = {seen[-1]} if seen and after == _TEXT else set()
        near |= {seen[0]} if seen and before == _TEXT else set()
        for number, line in enumerate(lines):
            # `<|im_start|>user`: nobody can write the token, so the word after it is only a word.
            if number == 0 and isinstance(before, Control) and _is_words(line):
                continue
            starts_line = number > 0 or not isinstance(before, Placeholder)
            goes_on = number == len(lines) - 1 and isinstance(after, Placeholder)
            yield _Piece(line, starts_line, number in near, goes_on)


def _header(piece: _Piece) -> Header | None:
    text = piece.text.strip()
    if numbered := re.match(r"(\W*\w*[^\W\d]\s*)\d", text):  # `[Round 1]` stands for every number
        return Header(skeleton(numbered[1]), inline=not piece.starts_line)
    looks = skeleton(text)
    if not any(char.isalnum() for char in looks) or (len(looks) > MAX_HEADER and not piece.near):
        return None
    inline = not piece.starts_line
    if not looks[-1].isalnum() or not text[-1:].isalnum():
        return Header(looks, inline=inline)
    if not piece.goes_on:
        return None if inline else Header(looks, whole=True)  # a bare word inside a line would be every such word
    capitals = tuple(char.isupper() for char in text if looks_of(char)) if inline else ()
    return Header(looks, inline=inline, word=True, capitals=capitals)


def _marks(piece: _Piece) -> list[Header]:
    """The marks in a line of them, as `<|end|><|start|>assistant` is one: of a vocabulary that has them as text.

    Nobody writes them by chance, so each is a header wherever it stands, and the name of a role behind them, which is
    a word like others, is none.
    """
    text = piece.text.strip()
    marks = marks_in(text)
    besides = without_marks(text)
    names_role = besides[-1:].isalnum() and not piece.goes_on
    if not marks or (besides and not names_role and len(marks) == 1) or (len(text) > MAX_HEADER and not piece.near):
        return []
    return [Header(skeleton(mark), inline=True) for mark in marks]


def _of_signs(piece: _Piece) -> Header:
    return Header(looks_of(piece.text), inline=not piece.starts_line)


def _is_signs(looks: str) -> bool:
    return bool(looks) and not any(char.isalnum() for char in looks)


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


def _is_words(piece: str) -> bool:
    return piece.replace(" ", "").replace("_", "").isalnum()
