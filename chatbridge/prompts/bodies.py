"""What stands where a format says `{text}`: the words of turns, made safe by whom they come from.

Knows turns, names and guards; knows no order of turns and no control token but the masks of trusted text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chatbridge.prompts import formats
from chatbridge.prompts.confusables import LINE_END, fold, skeleton
from chatbridge.prompts.formats import Placeholder
from chatbridge.prompts.guard import Guard, Mark, clean, clean_name
from chatbridge.prompts.segments import Segment, Special, Text, Tokens
from chatbridge.prompts.template import Template
from chatbridge.types import Turn

VARIABLES = ("user", "channel", "bot", "date", "time")
"""What trusted system text may name in braces."""

_VARIABLE = re.compile(r"\{(" + "|".join(VARIABLES) + r")\}")


@dataclass(frozen=True, slots=True)
class Body:
    """The words of one or more turns of a role; `names`: the speakers that were known when they were written."""

    turns: tuple[Turn, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Words:
    """Writes bodies for one template and one model, whose tokenizer is `vocabulary`."""

    template: Template
    guard: Guard
    variables: Mapping[str, str]
    vocabulary: str

    def said(self, body: Body, *, line_start: bool) -> list[Segment]:
        """What people said, each turn on its own line, with the speaker's name where the turn has one."""
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
                text = self._named(turn.name, Guard(self._marks(body.names)).apply(text, line_start=False))
            written.append(Text(self.guard.apply(text, line_start=line_start), "person"))
        return written

    def answered(self, body: Body, *, line_start: bool) -> list[Segment]:
        """What the model answered: its own ids where they are of this vocabulary and forge nothing, else text."""
        written: list[Segment] = []
        for turn in body.turns:
            reply = turn.reply
            if written:
                written.append(Text("\n"))
                line_start = True
            if (
                reply is not None
                and reply.vocabulary == self.vocabulary
                and (reply.tokens or reply.tail or not turn.text)
                and not self.guard.edits(turn.text, line_start=line_start)
            ):
                written.extend((Tokens(reply.tokens, reply.text), Text(reply.tail)))
            elif text := self.tidy(clean(turn.text)):
                written.append(Text(self.template.lead))
                if turn.trusted:
                    written.append(Text(text))
                else:
                    written.append(Text(self.guard.apply(text, line_start=line_start), "person"))
        return written

    def system(self, turns: Iterable[Turn], *, line_start: bool) -> list[Segment]:
        """The system text. Trusted text names variables, whose values are people's all the same."""
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
        """`text` with its blanks as the template wants them."""
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
        places = {"name": name, "text": text}
        return "".join(places.get(part.name, "") if isinstance(part, Placeholder) else str(part) for part in parts)

    def _marks(self, names: Sequence[str]) -> tuple[Mark, ...]:
        """`Carol:` is a header, too, once Carol is in the room."""
        marks = []
        for name in names:
            looks, _ = skeleton(self._named(name, "").partition("\n")[0])
            if looks:
                marks.append(Mark(looks, whole=looks[-1].isalnum()))
        return tuple(marks)


def guarded(pieces: Sequence[Text], guard: Guard, *, line_start: bool) -> list[Text]:
    """The pieces with every header broken that is not the template's alone: also one that pieces make together."""
    whole = "".join(piece.text for piece in pieces)
    ours = [piece.origin == "template" for piece in pieces for _ in piece.text]
    marked = list(pieces)
    for edit in reversed(guard.edits(whole, line_start=line_start)):
        if not all(ours[edit.start : edit.end]):
            marked = _inserted(marked, edit.at, edit.mark)
    return marked


def _inserted(pieces: Sequence[Text], at: int, mark: str) -> list[Text]:
    result: list[Text] = []
    for piece in pieces:
        if 0 <= at < len(piece.text):
            before, after = piece.text[:at], piece.text[at:]
            result += [Text(before, piece.origin), Text(mark, "person"), Text(after, piece.origin)]
        else:
            result.append(piece)
        at -= len(piece.text)
    return result
