"""Bodies: what stands in a format's `{text}`. Turns become segments, and text of people can forge no header there.

Knows turns, names and guards; knows no order of turns and no control token but the masks of trusted text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chatbridge.prompts.confusables import LINE_END
from chatbridge.prompts.guard import Guard, clean, clean_name
from chatbridge.prompts.reply_ids import ReplyIds
from chatbridge.prompts.segments import Segment, Special, Text
from chatbridge.prompts.speakers import Speakers
from chatbridge.prompts.template import Template
from chatbridge.types import Turn

VARIABLES = ("user", "channel", "bot", "date", "time")
"""What trusted system text may name in braces."""

_VARIABLE = re.compile(r"\{(" + "|".join(VARIABLES) + r")\}")


@dataclass(frozen=True, slots=True)
class Body:
    """Neighbouring turns of one role."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class BodyWriter:
    """Writes the bodies of one conversation, in their order, for one template and one model.

    `ids`: which answers' ids the model may get again.
    """

    template: Template
    guard: Guard
    variables: Mapping[str, str]
    ids: ReplyIds
    _speakers: Speakers = field(init=False)

    def __post_init__(self) -> None:
        speakers = Speakers(self.template.name_format, self.variables.get("bot", ""))
        object.__setattr__(self, "_speakers", speakers)

    @property
    def speakers(self) -> tuple[str, ...]:
        """See `RenderedPrompt.speakers`."""
        return self._speakers.heads()

    def user(self, body: Body, *, line_start: bool) -> list[Segment]:
        """Turns of people, each on a line of its own, with the speaker's name where it has one."""
        written: list[Segment] = []
        for turn in body.turns:
            if written:
                written.append(Text("\n"))
                line_start = True
            text = self.tidy(clean(turn.text))
            if turn.trusted:
                written.extend(self._masked(text))
                continue
            if turn.name:
                text = self._speakers.write(turn.name, text, turn.speaker)
            written.append(Text(self.guard.apply(text, line_start=line_start), "person"))
        return written

    def assistant(self, body: Body, *, line_start: bool, as_sampled: bool = True) -> list[Segment]:
        """Answers of the model: the ids as sampled if they are of this vocabulary and forge nothing, else the text.

        `as_sampled`: the template's own text of the turn says what the ids do.
        """
        written: list[Segment] = []
        for turn in body.turns:
            reply = turn.reply
            if written:
                written.append(Text("\n"))
                line_start = True
            kept = None
            if reply is not None and as_sampled:
                kept = self.ids.segments(reply, turn.text, self.guard, line_start=line_start)
            if kept is not None:
                written.extend(kept)
            elif text := self.tidy(clean(turn.text)):
                written.append(Text(self.template.lead))
                if turn.trusted:
                    written.append(Text(text))
                else:
                    written.append(Text(self.guard.apply(text, line_start=line_start), "person"))
        return written

    def has_ids(self, turn: Turn, *, line_start: bool) -> bool:
        """Whether an answer's ids may be used."""
        reply = turn.reply
        return reply is not None and self.ids.segments(reply, turn.text, self.guard, line_start=line_start) is not None

    def thought(self, text: str, *, line_start: bool) -> list[Segment]:
        """What an answer's thought says, where the template writes it again."""
        return [Text(self.guard.apply(self.tidy(clean(text)), line_start=line_start), "person")]

    def system(self, turns: Iterable[Turn], *, line_start: bool) -> list[Segment]:
        """The system text. Variables in trusted text are filled in, and their values guarded: people chose them."""
        return [*guarded(self.system_pieces(turns), self.guard, line_start=line_start)]

    def system_pieces(self, turns: Iterable[Turn]) -> list[Text]:
        """The system text before the guard has seen it: trusted text has the origin "template"."""
        pieces: list[Text] = []
        for turn in turns:
            if pieces:
                pieces.append(Text("\n\n"))
            if turn.trusted:
                pieces.extend(self._filled(turn.text))
            else:
                pieces.append(Text(self.tidy(clean(turn.text)), "person"))
        return pieces

    def tidy(self, text: str) -> str:
        """`text` with blanks and empty lines as the template's `blanks` says."""
        if self.template.blanks == "keep":
            return text
        if self.template.blanks == "collapse":
            return re.sub(r"\n\s*\n", "\n", LINE_END.sub("\n", text).strip())
        return text.strip()

    def _filled(self, text: str) -> list[Text]:
        if self.template.blanks == "collapse":  # A trusted example conversation keeps its empty lines.
            text = "\n".join(line.strip() for line in text.strip().splitlines())
        pieces = []
        for at, piece in enumerate(_VARIABLE.split(text)):
            if at % 2:
                value = self.variables.get(piece)
                pieces.append(Text(f"{{{piece}}}") if value is None else Text(clean_name(value), "person"))
            else:
                pieces.append(Text(piece))
        return pieces

    def _masked(self, text: str) -> list[Segment]:
        if not self.template.masks:
            return [Text(text)]
        split = re.split("(" + "|".join(map(re.escape, self.template.masks)) + ")", text)
        return [Special(piece) if at % 2 else Text(piece) for at, piece in enumerate(split)]


def guarded(pieces: Sequence[Text], guard: Guard, *, line_start: bool) -> list[Text]:
    """The pieces with every header neutralised, also one that several pieces make together.

    Only a header that is the template's own text throughout is left alone.
    """
    edits = guard.edits("".join(piece.text for piece in pieces), line_start=line_start)
    theirs = _of_persons(pieces)
    begins = [begin for begin, _ in theirs]
    wanted = []
    for edit in edits:
        nearest = bisect_left(begins, edit.end) - 1  # the last that begins before the header ends
        if nearest >= 0 and theirs[nearest][1] > edit.start:
            wanted.append(edit)
    safe: list[Text] = []
    begin = done = 0  # where the piece begins, and how many of the edits are made
    for piece in pieces:
        at = begin
        while done < len(wanted) and wanted[done].at < begin + len(piece.text):
            edit = wanted[done]
            safe += (Text(piece.text[at - begin : edit.at - begin], piece.origin), Text(edit.insertion, "person"))
            at, done = edit.at, done + 1
        safe.append(Text(piece.text[at - begin :], piece.origin))
        begin += len(piece.text)
    return safe


def _of_persons(pieces: Sequence[Text]) -> list[tuple[int, int]]:
    spans = []
    at = 0
    for piece in pieces:
        if piece.origin == "person" and piece.text:
            spans.append((at, at + len(piece.text)))
        at += len(piece.text)
    return spans
