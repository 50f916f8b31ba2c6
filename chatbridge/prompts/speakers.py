"""The speakers of a group: whoever speaks is told apart from all others, and nobody writes a line in another's name.

Knows one conversation's names in the order in which they come, so that a prompt goes on as it began: nobody's name
changes because somebody came later. Knows no template but the format of names, and no role header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from chatbridge.prompts import formats
from chatbridge.prompts.cache import ByteLru, weight
from chatbridge.prompts.confusables import fold, line_starts, skeleton, with_line_ends
from chatbridge.prompts.formats import FormatPart, Placeholder
from chatbridge.prompts.guard import Guard, clean_name
from chatbridge.prompts.headers import Header

_NAME, _TEXT = Placeholder("name"), Placeholder("text")
_REORDERS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the order of what follows around, so that a text can stand where a name does."""


MAX_HEADS = 32
"""Speakers in whose names an answer is kept from going on: each costs a look at every character."""


@dataclass(frozen=True, slots=True)
class _NameFormat:
    """What the format of names says. `border`: how the sign between a name and its text looks."""

    parts: tuple[FormatPart, ...]
    before: str
    between: str
    signs: frozenset[str]
    border: str
    quote: str


@lru_cache(maxsize=512)
def _read(source: str) -> _NameFormat:
    parts = formats.parse(source)
    at, behind = parts.index(_NAME), parts.index(_TEXT)
    before = "".join(part for part in parts[:at] if isinstance(part, str))
    between = "".join(part for part in parts[at + 1 : behind] if isinstance(part, str))
    literal = "".join(part for part in parts if isinstance(part, str))
    signs = frozenset(seen for char in literal for seen in fold(char) if not char.isalnum()) - {"\n"}
    border = skeleton(between.partition("\n")[0])
    return _NameFormat(parts, before, between, signs, border, "| " if skeleton(before)[:1] == ">" else "> ")


class Speakers:
    """Writes what speakers say, in the order of the conversation. `bot`: the name that no person has."""

    def __init__(self, name_format: str, bot: str = "") -> None:
        form = _read(name_format)
        self._parts, self._before, self._between = form.parts, form.before, form.between
        self._signs, self._border, self._quote = form.signs, form.border, form.quote
        self._shown: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, int] = {}
        self._taken: dict[str, None] = {}
        self._written: set[str] = set()
        self._bot = self._cleaned(bot) if bot else ""
        if bot:
            self._take(self._bot)

    def write(self, name: str, text: str, speaker: str = "") -> str:
        """`text` as `name` says it. Lines in the name of anybody who is known by now are quoted.

        `speaker`: their id, "" where nobody knows it; two people may have one name.
        """
        shown = self._named(name, speaker)
        first = "\n" in self._between  # the text begins a line
        if not any(not char.isalnum() for char in self._border):
            # Nothing tells where a name ends: each is looked for by itself.
            heads = (Header(head, word=head[-1:].isalnum()) for head in self._taken if head)
            return self._put(shown, Guard(tuple(heads)).apply(text, line_start=first))
        pieces: list[str] = []
        done = 0
        for start, head in _HEADS.get((self._head(""), self._border, text), lambda: tuple(self._heads(text))):
            if head in self._taken and (start or first):
                pieces += (text[done:start], self._quote)
                done = start
            self._written.add(head)
        return self._put(shown, "".join((*pieces, text[done:])))

    def heads(self) -> tuple[str, ...]:
        """What lines begin with in the names that were written, those of the latest speakers; the bot's own first.

        () where nobody was named, and where nothing tells where a name ends.
        """
        names = list(dict.fromkeys(self._shown.values()))[-MAX_HEADS:]
        if not names or not any(not char.isalnum() for char in self._border):
            return ()
        return tuple(self._put_before(name) for name in (self._bot, *names) if name)

    def _named(self, name: str, speaker: str) -> str:
        """How a speaker is called: as given, or with a number where that would read as somebody else."""
        if (speaker, name) not in self._shown:
            cleaned = wanted = self._cleaned(name)
            while self._head(cleaned) in self._taken or self._head(cleaned) in self._written:
                # Where the last one of that name ended: somebody may have written a line for each number.
                number = self._numbers[wanted] = self._numbers.get(wanted, 1) + 1
                cleaned = f"{wanted} ({number})" if not self._signs & {"(", ")"} else f"{wanted} {number}"
            self._shown[speaker, name] = cleaned
            self._take(cleaned)
        return self._shown[speaker, name]

    def _take(self, name: str) -> None:
        self._taken[self._head(name)] = None

    def _cleaned(self, name: str) -> str:
        """A name on one line that can be seen, without the signs of the format."""
        name = clean_name(_REORDERS.sub("", name))
        if not skeleton(name):
            name = "?"
        return "".join("_" if self._signs & set(fold(char)) else char for char in name)

    def _head(self, name: str) -> str:
        """What a line of somebody of that name begins with."""
        return skeleton(self._put_before(name))

    def _put_before(self, name: str) -> str:
        return self._before.rpartition("\n")[2] + name + self._between.partition("\n")[0]

    def _put(self, name: str, text: str) -> str:
        values = {_NAME: name, _TEXT: text}
        return "".join(values.get(part, "") if isinstance(part, Placeholder) else str(part) for part in self._parts)

    def _heads(self, text: str) -> Iterator[tuple[int, str]]:
        """Where lines begin that may be somebody's, and what they begin with."""
        text = with_line_ends(text)
        looks = skeleton(text)
        if self._border not in looks:
            return
        before = len(skeleton(self._before.rpartition("\n")[2]))
        for start, line in zip(line_starts(text), looks.split("\n"), strict=True):
            found = line.find(self._border, before)
            if found >= 0:
                yield start, line[: found + len(self._border)]


def _size(key: tuple[str, str, str], heads: tuple[tuple[int, str], ...]) -> int:
    return weight((key[2], *(head for _, head in heads)))


_HEADS: ByteLru[tuple[str, str, str], tuple[tuple[int, str], ...]] = ByteLru(8 << 20, _size)
