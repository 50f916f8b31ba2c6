"""Markdown for a service that reads Markdown itself, a little differently: as Discord does.

What it reads like everybody is passed on as it stands. Indented code, tables and deep headings, which it does not
know, become what it does. Knows no limits; the spans and holds say how the text may be cut.
"""

from __future__ import annotations

import re

from markdown_it.token import Token

from chatbridge.delivery.inline import formats
from chatbridge.delivery.markdown import block_parser, table_rows, unified
from chatbridge.delivery.rendered import TICKS, ZERO_WIDTH, Hold, Rendered, Span, code_language
from chatbridge.delivery.tables import grid

_MENTION = re.compile(r"@(?=everyone|here)|(?<=<)@(?=[!&]?\d)")
_HEAD_OF_ITEM = re.compile(r"[\s>]*(?:[-*+]|\d+[.)])\s")
_MANY_LINES = re.compile(r"\n{10,}")
RULE = "──────────"
HEADING_HOLD = 3
"""Characters behind a heading before which a message had better not end: its last line should be no heading."""


def as_markdown(source: str, *, mentions: bool = False) -> Rendered:
    """The source in Discord's dialect. Unless `mentions` are wanted, nobody is mentioned by it.

    A fence that the source leaves open (it may still be being written) is closed.
    """
    writer = _Writer(mentions)
    lines = unified(source).strip("\n").split("\n")
    tokens = block_parser().parse("\n".join(lines))
    done = 0
    for at, token in enumerate(tokens):
        if token.map is None or token.map[0] < done:
            continue
        first, after = token.map
        if token.type not in ("fence", "code_block", "table_open", "heading_open", "hr"):
            continue
        if token.type != "fence" and token.level:
            continue  # inside a list or a quote its lines have other marks before them
        writer.lines(lines[done:first])
        if token.type == "fence":
            if _HEAD_OF_ITEM.fullmatch(before := lines[first].partition(token.markup)[0]):
                writer.lines([before.rstrip()])
            writer.code(token.content, code_language(token.info))
        elif token.type == "code_block":
            writer.code(token.content, "")
        elif token.type == "table_open":
            writer.code(grid(table_rows(tokens[at : _closing(tokens, at)])), "")
        elif token.type == "heading_open":
            writer.heading(int(token.tag[1:]), tokens[at + 1].content.replace("\n", " "))
        else:
            writer.lines([RULE])
        done = after
    writer.lines(lines[done:])
    return writer.rendered()


def small_text(thought: str) -> str:
    """A thought in small letters, in Discord's Markdown."""
    return "\n".join(f"-# {line}" if line.strip() else "" for line in thought.split("\n"))


def _closing(tokens: list[Token], at: int) -> int:
    return next(i for i in range(at, len(tokens)) if tokens[i].type == "table_close")


class _Writer:
    """Collects the text line by line, with what may not be cut in it."""

    def __init__(self, mentions: bool) -> None:
        self._mentions = mentions
        self._texts: list[str] = []
        self._length = 0
        self._spans: list[Span] = []
        self._holds: list[Hold] = []

    def rendered(self) -> Rendered:
        text = "".join(self._texts)
        kept = len(text.rstrip())
        return Rendered(text[:kept], tuple(self._spans), tuple(self._holds))

    def lines(self, lines: list[str]) -> None:
        for line in lines:
            self._new_line()
            self._line(line)

    def heading(self, level: int, text: str) -> None:
        self._new_line()
        start = self._length
        self._line(f"{'#' * level} {text}" if level <= 3 else f"**{text.replace('**', '')}**")
        self._holds.append(Hold(start, self._length + HEADING_HOLD))

    def code(self, content: str, language: str) -> None:
        self._new_line()
        opening = f"{TICKS}{language}\n"
        start = self._write(opening)
        # Many blank lines in a row could fill a message, and a block of nothing else is none.
        code = _MANY_LINES.sub(lambda match: " ".join(match[0]), content.rstrip("\n"))
        first = self._write(_without_fences(self._without_mentions(code)) or " ")
        begun = first + len(code) - len(code.lstrip("\n"))
        after = self._write(f"\n{TICKS}")
        self._spans.append(Span(first, after, "pre", language, opening, f"\n{TICKS}"))
        self._holds += [Hold(start, begun + 1, hard=True), Hold(after - 1, self._length, hard=True)]

    def _line(self, line: str) -> None:
        """A line of text: its code, bold words and links are better left whole."""
        line = self._without_mentions(line)
        at = 0
        for found in formats(line):
            self._write(_without_fences(line[at : found.start]))
            at = found.end
            if found.kind == "link":
                start = self._write(_without_fences(found.words))
                self._holds.append(Hold(start, self._length))
                continue
            mark, words = found.mark, _without_fences(found.words)
            if found.kind == "code":
                mark, words = _in_line(found.mark, found.words)
            start = self._write(mark)
            self._write(words)
            end = self._write(mark)
            self._spans.append(Span(start + len(mark), end, found.kind, "", mark, mark))
            self._holds.append(Hold(start, self._length))
            self._holds += [Hold(start, start + len(mark) + 1, hard=True), Hold(end - 1, self._length, hard=True)]
        self._write(_without_fences(line[at:]))

    def _without_mentions(self, text: str) -> str:
        return text if self._mentions else _MENTION.sub(f"@{ZERO_WIDTH}", text)

    def _new_line(self) -> None:
        if self._texts:
            self._write("\n")

    def _write(self, text: str) -> int:
        """Append, and say where it begins."""
        start = self._length
        self._texts.append(text)
        self._length += len(text)
        return start


def _in_line(ticks: str, code: str) -> tuple[str, str]:
    """Code within a line, in ticks that Discord does not take for a block's: at most two."""
    if ticks == TICKS:
        ticks = "``" if "`" in code else "`"
    return ticks, re.sub(r"`{2,}", lambda match: ZERO_WIDTH.join(match[0]), code)


def _without_fences(text: str) -> str:
    """Without fences: a stray one would turn all that follows into code."""
    return re.sub(r"`{3,}", lambda match: ZERO_WIDTH.join(match[0]), text)
