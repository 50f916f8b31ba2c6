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

ANYWHERE, GRAPHEME, HELD_WORD, HELD_SENTENCE, HELD_LINE, HELD_PARAGRAPH, WORD, SENTENCE, LINE, PARAGRAPH = range(10)
"""How good a place for a cut is. What is held together is cut where nothing else helps, and then at its best place."""
_HELD = WORD - HELD_WORD

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
    rendered: Rendered,
    limit: int,
    count: Callable[[str], int] = len,
    at_most: int | None = None,
    max_entities: int | None = None,
) -> list[Fragment]:
    """The messages for a text. None of them counts more than `limit`; blank ones are left to the caller.

    `at_most`: all that comes after so many messages that are not blank is one more, of any length. `max_entities`: no
    message but that one has more formats beside its text. Takes a time that grows with the text.
    Raises: ValueError where the limit leaves no room for the text between its markup.
    """
    if not rendered.text:
        return []
    cutter = _Cutter(rendered, limit, count, max_entities)
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

    def __init__(self, rendered: Rendered, limit: int, count: Callable[[str], int], max_entities: int | None) -> None:
        self.text = rendered.text
        spans = sorted(rendered.spans, key=lambda span: (span.start, -span.end))
        self.cut_open = _OpenSpans([span for span in spans if span.before])
        self.beside = [span for span in spans if not span.before]
        """Formats that are told beside the text; the first `told` of them were, but for those that go on."""
        self.told = 0
        self.going_on: list[Span] = []
        self.limit = limit
        self.count = count
        self.max_entities = max_entities
        self.units = [0, *accumulate(map(count, self.text))]
        """The length of each beginning of the text, as the service counts."""
        self.written = [0, *accumulate(char != "\n" for char in self.text)]
        """How many characters of each beginning are no line ends."""
        self.blank = bytearray(char.isspace() for char in self.text)
        """Which characters are not sent at the ends of a message."""
        for gap in rendered.gaps:
            self.blank[gap.start : gap.end] = b"\1" * (min(gap.end, len(self.text)) - gap.start)
        self.verbatim = [span for span in spans if span.kind in ("pre", "code")]
        """Code, whose blanks are sent; the first `passed` pieces of it were."""
        self.loose = bytearray(self.blank)
        """Blanks that are not code."""
        for span in self.verbatim:
            self.loose[span.start : span.end] = bytes(span.end - span.start)
        self.passed = 0
        ends = (0 if blank else at for at, blank in enumerate(self.blank, 1))
        self.stops = [0, *accumulate(ends, max)]
        """Where each beginning ends without the blanks at its end."""
        self.ranks = _ranks(rendered)

    def end_of(self, start: int) -> int:
        """Where the message that begins at `start` had best end."""
        last = len(self.text)
        room = self.limit - self.count(self._head(start))
        furthest = max(bisect_right(self.units, self.units[start] + room) - 1, start)
        while furthest < last and self.blank[furthest]:
            furthest += 1  # blanks at the end of a message cost nothing: they are not sent
        furthest = min(furthest, self._end_of_entities(start))
        if furthest == last and self._fits(start, last, room):
            return last
        # A good place in the second half is better than the best one in the first, which would leave a stub.
        half = max(bisect_left(self.units, self.units[start] + room // 2), start)
        well = [(rank, half) for rank in range(PARAGRAPH, WORD - 1, -1)]
        held = [(rank, half) for rank in range(HELD_PARAGRAPH, HELD_WORD - 1, -1)]
        rest = [(rank, start) for rank in (HELD_WORD, GRAPHEME, ANYWHERE)]
        for rank, floor in (*well, (WORD, start), *held, *rest):
            for end in range(furthest, floor, -1):
                if self.ranks[end] >= rank and self._fits(start, end, room):
                    return end
        raise ValueError(f"nothing fits into messages of {self.limit}")

    def fragment(self, start: int, end: int) -> Fragment:
        head, tail, stop = self._head(start), self._tail(end), self._stop(start, end)
        first_sent = start if head else self._first_sent(start, stop)
        while self.told < len(self.beside) and self.beside[self.told].start < stop:
            self.going_on.append(self.beside[self.told])
            self.told += 1
        entities = []
        for span in self.going_on:
            first, after = self._trimmed(span, max(span.start, first_sent), min(span.end, stop))
            if first < after:
                offset, length = self.units[first] - self.units[first_sent], self.units[after] - self.units[first]
                entities.append(Entity(span.kind, offset, length, span.data))
        self.going_on = [span for span in self.going_on if span.end > stop]
        return Fragment(self.text[start:end], head + self.text[first_sent:stop] + tail, head, tuple(entities))

    def _end_of_entities(self, start: int) -> int:
        """How far a message can go before it has more formats than it may."""
        if self.max_entities is None:
            return len(self.text)
        going_on = sum(span.end > start for span in self.going_on)
        next_one = self.told + max(0, self.max_entities - going_on)
        return max(self.beside[next_one].start, start + 1) if next_one < len(self.beside) else len(self.text)

    def _first_sent(self, start: int, stop: int) -> int:
        """Where the text of a message begins: behind blanks, unless they are code."""
        first = start
        while first < stop and self.blank[first]:
            first += 1
        while self.passed < len(self.verbatim) and self.verbatim[self.passed].end <= start:
            self.passed += 1
        begins = self.verbatim[self.passed].start if self.passed < len(self.verbatim) else first
        return min(first, max(start, begins))

    def _trimmed(self, span: Span, first: int, after: int) -> tuple[int, int]:
        """What a format covers of a message: no blanks at its ends, unless it is code."""
        if span.kind not in ("pre", "code"):
            while first < after and self.loose[first]:
                first += 1
            while first < after and self.loose[after - 1]:
                after -= 1
        return first, after

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
    for gap in rendered.gaps:
        ranks[gap.start + 1 : gap.end] = bytes(max(0, min(gap.end, len(ranks)) - gap.start - 1))
        if gap.end < len(ranks):
            ranks[gap.end] = PARAGRAPH
    for hold in rendered.holds:
        for at in range(hold.start + 1, min(hold.end, len(ranks))):
            if hold.hard:
                ranks[at] = 0
            elif ranks[at] >= WORD:
                ranks[at] -= _HELD
    return ranks


def _as_accents(flags: regex.Match[str]) -> str:
    """Letters with accents, which have the length and the graphemes of these flags: each of a row of flags would be
    paired by counting from the row's beginning."""
    length = len(flags[0])
    return ("a\u0301" * (length // 2 + 1))[:length]
