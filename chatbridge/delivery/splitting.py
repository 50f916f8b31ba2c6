"""Cuts a rendered text into messages, at the best places. Knows no Markdown and no service.

In order of preference a cut comes after a paragraph, a line, a sentence, a word; never inside a grapheme, unless one
alone is longer than a message. What is cut open (a code block) is closed, and opened again in the next message.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import regex

from chatbridge.delivery.chat import Entity
from chatbridge.delivery.rendered import Rendered, Span

ANYWHERE, GRAPHEME, WORD, SENTENCE, LINE, PARAGRAPH = range(6)

_AFTER = {
    WORD: regex.compile(r"\s+|[，、；：]"),
    # From the first of several marks on, or each of them would be tried.
    SENTENCE: regex.compile(r"(?<![.!?…])[.!?…]++[\p{Pe}\p{Pf}'\"]*+\s+|[。！？…]+[\p{Pe}\p{Pf}'\"]*\s*"),
    LINE: regex.compile(r"\n"),
    PARAGRAPH: regex.compile(r"\n(?:[^\S\n]*\n)+"),
}
_GRAPHEME = regex.compile(r"\X")
_FLAGS = regex.compile(r"[\U0001F1E6-\U0001F1FF]{2,}")


@dataclass(frozen=True, slots=True)
class Fragment:
    """The text of one message. `body` is its share of the rendered text: all bodies, joined, are that text.

    `text` is what is sent: the body without blanks at its end, between the markup that it needs at its ends, of
    which `head` comes first.
    """

    body: str
    text: str
    head: str = ""
    entities: tuple[Entity, ...] = ()


def split(
    rendered: Rendered, limit: int, count: Callable[[str], int] = len, at_most: int | None = None
) -> list[Fragment]:
    """The messages for a text. None of them counts more than `limit`; blank ones are left to the caller.

    `at_most`: all that comes after so many messages that are not blank is one more, of any length. Takes a time that
    grows with the text. Raises: ValueError where the limit leaves no room for the text between its markup.
    """
    if not rendered.text:
        return []
    cutter = _Cutter(rendered, limit, count)
    fragments: list[Fragment] = []
    start = shown = 0
    while start < len(rendered.text):
        end = len(rendered.text) if shown == at_most else cutter.end_of(start)
        fragments.append(cutter.fragment(start, end))
        shown += bool(fragments[-1].text.strip())
        start = end
    return fragments


class _Cutter:
    """To be asked for the messages from the first to the last."""

    def __init__(self, rendered: Rendered, limit: int, count: Callable[[str], int]) -> None:
        self.text = rendered.text
        spans = sorted(rendered.spans, key=lambda span: (span.start, -span.end))
        self.cut_open = _OpenSpans([span for span in spans if span.before])
        self.beside = [span for span in spans if not span.before]
        """Formats that are told beside the text; the first `told` of them were, but for those that go on."""
        self.told = 0
        self.going_on: list[Span] = []
        self.limit = limit
        self.count = count
        self.units = [0, *accumulate(map(count, self.text))]
        """The length of each beginning of the text, as the service counts."""
        self.written = [0, *accumulate(char != "\n" for char in self.text)]
        """How many characters of each beginning are no line ends."""
        ends = (0 if char.isspace() else at for at, char in enumerate(self.text, 1))
        self.stops = [0, *accumulate(ends, max)]
        """Where each beginning ends without the blanks at its end."""
        self.ranks = _ranks(rendered)

    def end_of(self, start: int) -> int:
        """Where the message that begins at `start` had best end."""
        last = len(self.text)
        room = self.limit - self.count(self._head(start))
        furthest = max(bisect_right(self.units, self.units[start] + room) - 1, start)
        while furthest < last and self.text[furthest].isspace():
            furthest += 1  # blanks at the end of a message cost nothing: they are not sent
        if furthest == last and self._fits(start, last, room):
            return last
        # A good place in the second half is better than the best one in the first, which would leave a stub.
        half = max(bisect_left(self.units, self.units[start] + room // 2), start)
        well = [(rank, half) for rank in (PARAGRAPH, LINE, SENTENCE, WORD)]
        for rank, floor in (*well, *((rank, start) for rank in (WORD, GRAPHEME, ANYWHERE))):
            for end in range(furthest, floor, -1):
                if self.ranks[end] >= rank and self._fits(start, end, room):
                    return end
        raise ValueError(f"nothing fits into messages of {self.limit}")

    def fragment(self, start: int, end: int) -> Fragment:
        head, tail, stop = self._head(start), self._tail(end), self._stop(start, end)
        while self.told < len(self.beside) and self.beside[self.told].start < stop:
            self.going_on.append(self.beside[self.told])
            self.told += 1
        entities = [
            Entity(span.kind, self.units[first] - self.units[start], self.units[after] - self.units[first], span.data)
            for span in self.going_on
            if (first := max(span.start, start)) < (after := min(span.end, stop))
        ]
        self.going_on = [span for span in self.going_on if span.end > stop]
        return Fragment(self.text[start:end], head + self.text[start:stop] + tail, head, tuple(entities))

    def _fits(self, start: int, end: int, room: int) -> bool:
        tail = self._tail(end)
        if tail and self.written[start] == self.written[end]:
            return False  # a block of nothing but line ends is none
        return self.units[self._stop(start, end)] - self.units[start] + self.count(tail) <= room

    def _head(self, start: int) -> str:
        return "".join(span.before for span in self.cut_open.at(start))

    def _tail(self, end: int) -> str:
        tail = "".join(span.after for span in reversed(self.cut_open.at(end)))
        return tail[1:] if tail.startswith("\n") and self.text[end - 1] == "\n" else tail

    def _stop(self, start: int, end: int) -> int:
        """Where the text of a message ends: before blanks, unless something is closed behind them."""
        return end if self._tail(end) else max(start, self.stops[end])


class _OpenSpans:
    """Which spans a cut would cut open."""

    def __init__(self, spans: Sequence[Span]) -> None:
        changes = [(span.start + 1, True, span) for span in spans if span.end > span.start + 1]
        changes += [(span.end, False, span) for span in spans if span.end > span.start + 1]
        self._from = [0]
        self._open: list[tuple[Span, ...]] = [()]
        current: list[Span] = []
        for at, opens, span in sorted(changes, key=lambda change: change[:2]):
            current = [*current, span] if opens else [one for one in current if one is not span]
            self._from.append(at)
            self._open.append(tuple(current))

    def at(self, cut: int) -> Sequence[Span]:
        """The spans that have text on both sides of a cut, the outer ones first."""
        return self._open[bisect_right(self._from, cut) - 1]


def _ranks(rendered: Rendered) -> bytearray:
    """For each position how good a place for a cut it is; 0 where none may be."""
    ranks = bytearray(len(rendered.text) + 1)
    for match in _GRAPHEME.finditer(_FLAGS.sub(_as_accents, rendered.text)):
        ranks[match.end()] = GRAPHEME
    for rank, pattern in _AFTER.items():
        for match in pattern.finditer(rendered.text):
            if ranks[match.end()]:
                ranks[match.end()] = rank
    for span in rendered.spans:
        if span.kind == "pre":  # what looks like a sentence there is none, and a paragraph is but a line
            for at in range(span.start + 1, span.end):
                ranks[at] = {SENTENCE: WORD, PARAGRAPH: LINE}.get(ranks[at], ranks[at])
    for hold in rendered.holds:
        for at in range(hold.start + 1, min(hold.end, len(ranks))):
            ranks[at] = 0 if hold.hard else min(ranks[at], GRAPHEME)
    return ranks


def _as_accents(flags: regex.Match[str]) -> str:
    """Letters with accents, which have the length and the graphemes of these flags: each of a row of flags would be
    paired by counting from the row's beginning."""
    length = len(flags[0])
    return ("a\u0301" * (length // 2 + 1))[:length]
