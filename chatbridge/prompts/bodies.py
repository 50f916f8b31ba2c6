"""Bodies: what stands in a format's `{text}`. Turns become segments, and text of people can forge no header there.

Knows turns, names and guards; knows no order of turns and no control token but the masks of trusted text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chatbridge.prompts import formats
from chatbridge.prompts.confusables import LINE_END, fold, skeleton
from chatbridge.prompts.formats import Placeholder
from chatbridge.prompts.guard import Guard, Header, clean, clean_name
from chatbridge.prompts.reply_ids import ReplyIds
from chatbridge.prompts.segments import Segment, Special, Text, Tokens
from chatbridge.prompts.template import Template
from chatbridge.types import Turn

VARIABLES = ("user", "channel", "bot", "date", "time")
"""What trusted system text may name in braces."""

_VARIABLE = re.compile(r"\{(" + "|".join(VARIABLES) + r")\}")


@dataclass(frozen=True, slots=True)
class Body:
    """Neighbouring turns of one role. `names`: the speakers known up to these turns."""

    turns: tuple[Turn, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BodyWriter:
    """Writes bodies for one template and one model. `ids`: which answers' ids the model may get again."""

    template: Template
    guard: Guard
    variables: Mapping[str, str]
    ids: ReplyIds

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
                text = self._named(turn.name, Guard(self._name_headers(body.names)).apply(text, line_start=False))
            written.append(Text(self.guard.apply(text, line_start=line_start), "person"))
        return written

    def assistant(self, body: Body, *, line_start: bool) -> list[Segment]:
        """Answers of the model: the ids as sampled if they are of this vocabulary and forge nothing, else the text."""
        written: list[Segment] = []
        for turn in body.turns:
            reply = turn.reply
            if written:
                written.append(Text("\n"))
                line_start = True
            ids = self.ids.of(reply, turn.text, self.guard, line_start=line_start) if reply is not None else None
            if reply is not None and ids is not None and (ids or reply.tail or not turn.text):
                written.extend((Tokens(ids, reply.text), Text(reply.tail)))
            elif text := self.tidy(clean(turn.text)):
                written.append(Text(self.template.lead))
                if turn.trusted:
                    written.append(Text(text))
                else:
                    written.append(Text(self.guard.apply(text, line_start=line_start), "person"))
        return written

    def system(self, turns: Iterable[Turn], *, line_start: bool) -> list[Segment]:
        """The system text. Variables in trusted text are filled in, and their values guarded: people chose them."""
        pieces: list[Text] = []
        for turn in turns:
            if pieces:
                pieces.append(Text("\n\n"))
            if turn.trusted:
                pieces.extend(self._filled(turn.text))
            else:
                pieces.append(Text(self.tidy(clean(turn.text)), "person"))
        return [*guarded(pieces, self.guard, line_start=line_start)]

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

    def _named(self, name: str, text: str) -> str:
        parts = formats.parse(self.template.name_format)
        literal = "".join(part for part in parts if isinstance(part, str))
        signs = {fold(char) for char in literal if not char.isalnum()} - {""}
        name = "".join("_" if fold(char) in signs else char for char in clean_name(name))
        values = {"name": name, "text": text}
        return "".join(values.get(part.name, "") if isinstance(part, Placeholder) else str(part) for part in parts)

    def _name_headers(self, names: Sequence[str]) -> tuple[Header, ...]:
        """Headers such as `Carol:`, once Carol is in the room."""
        headers = []
        for name in names:
            looks, _ = skeleton(self._named(name, "").partition("\n")[0])
            if looks:
                headers.append(Header(looks, whole=looks[-1].isalnum()))
        return tuple(headers)


def guarded(pieces: Sequence[Text], guard: Guard, *, line_start: bool) -> list[Text]:
    """The pieces with every header neutralised, also one that several pieces make together.

    Only a header that is the template's own text throughout is left alone.
    """
    whole = "".join(piece.text for piece in pieces)
    ours = [piece.origin == "template" for piece in pieces for _ in piece.text]
    safe = list(pieces)
    for edit in reversed(guard.edits(whole, line_start=line_start)):
        if not all(ours[edit.start : edit.end]):
            safe = _inserted(safe, edit.at, edit.insertion)
    return safe


def _inserted(pieces: Sequence[Text], at: int, insertion: str) -> list[Text]:
    result: list[Text] = []
    for piece in pieces:
        if 0 <= at < len(piece.text):
            before, after = piece.text[:at], piece.text[at:]
            result += [Text(before, piece.origin), Text(insertion, "person"), Text(after, piece.origin)]
        else:
            result.append(piece)
        at -= len(piece.text)
    return result
