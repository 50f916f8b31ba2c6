"""Puts a conversation in the places that a chat template has left for it: system text, messages, thoughts and answers.

An answer's ids stay as they were sampled where the template says the same of that turn; else it is written anew, and
counted. Knows turns and what was sampled; knows no template engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from chatbridge.prompts.answer_format import frame_parts
from chatbridge.prompts.bodies import Body, BodyWriter, guarded
from chatbridge.prompts.jinja_chat import Content, Part, Shown
from chatbridge.prompts.rendered import tidied
from chatbridge.prompts.reply_ids import THOUGHT, is_as_sampled
from chatbridge.prompts.segments import Segment, Special, Text
from chatbridge.types import Role, Turn


class ChatWriter:
    """Puts a conversation in the places that a template has left for it."""

    def __init__(
        self,
        bodies: BodyWriter,
        system: Sequence[Turn],
        spoken: Sequence[tuple[Role, Body]],
        generation: Sequence[Part],
        end: str,
        *,
        first_thought: int,
        shown: Shown | None = None,
    ) -> None:
        self.segments: list[Segment] = []
        self.rewritten = 0
        self._bodies, self._system, self._spoken = bodies, system, spoken
        self._generation: list[Segment] = [
            Text(part) if isinstance(part, str) else part for part in generation if not isinstance(part, Content)
        ]
        self._end = end
        self._first_thought, self._shown = first_thought, shown
        self._turn = 0  # where the segments of this turn begin, and what it says so far
        self._said = ""
        self._sampled = ""  # the mark that the latest answer's ids end with

    def write(self, parts: Sequence[Part]) -> None:
        for at, part in enumerate(parts):
            if not isinstance(part, Content):
                self._own(part)
            elif part.index >= self._first_thought:
                reply = self._spoken[part.index - self._first_thought][1].turns[0].reply
                assert reply is not None, "a thought is told of answers that had one"
                self._put(self._bodies.thought(reply.thoughts or "", line_start=starts_line(self.segments)), part)
                self._said += THOUGHT
            else:
                self._content(part, _said(takewhile(lambda part: not isinstance(part, Content), parts[at + 1 :])))
                self._turn, self._said = len(self.segments), ""

    def _own(self, part: str | Special) -> None:
        """The template's own text, but for what an answer's ids have said already."""
        text = part if isinstance(part, str) else part.token
        if self._sampled and text.strip():
            text, self._sampled = text.lstrip().removeprefix(self._sampled), ""
            part = text if isinstance(part, str) or not text else part
        self.segments.append(Text(part) if isinstance(part, str) else part)
        self._said += text

    def _content(self, part: Content, behind: str) -> None:
        start = starts_line(self.segments)
        if part.shown is not None and self._shown is not None:
            self._put([*guarded(self._shown.texts(part), self._bodies.guard, line_start=start)], part)
        elif part.index == len(self._spoken):
            self._put(self._bodies.system(self._system, line_start=start), part)
        elif part.index >= 0:
            role, body = self._spoken[part.index]
            if role == "assistant":
                self._answer(body, part, behind)
            else:
                self._put(self._bodies.user(body, line_start=start), part)

    def _answer(self, body: Body, part: Content, behind: str) -> None:
        generation = _said(self._generation)
        known = [turn.reply for turn in body.turns if turn.reply is not None]
        same = all(is_as_sampled(reply, self._said, generation, behind) for reply in known)
        if same and self._bodies.has_ids(body.turns[0], line_start=starts_line(self._generation)):
            self.segments[self._turn :] = self._generation
            self._sampled = self._end if (frame_parts(known[-1].frame) or ("", "", ""))[2] else ""
        else:
            self.rewritten += sum(map(self._bodies.ids.knows, known))
            same = False
        start = starts_line(self.segments)
        self._put(self._bodies.assistant(body, line_start=start, as_sampled=same), part)

    def _put(self, written: list[Segment], part: Content) -> None:
        self.segments += _stripped(written, part)


def _said(parts: Iterable[Part | Segment]) -> str:
    """The template's own text of a row of parts, control tokens by their names."""
    return "".join(
        part if isinstance(part, str) else part.text if isinstance(part, Text) else part.token
        for part in parts
        if isinstance(part, str | Text | Special)
    )


def _stripped(written: list[Segment], content: Content) -> list[Segment]:
    """The content without its outer blanks, where the template strips them. Sampled ids stay as they are."""
    written = list(tidied(written))
    if written and content.lstrip and isinstance(written[0], Text):
        written[0] = Text(written[0].text.lstrip(), written[0].origin)
    if written and content.rstrip and isinstance(written[-1], Text):
        written[-1] = Text(written[-1].text.rstrip(), written[-1].origin)
    return written


def starts_line(segments: Sequence[Segment]) -> bool:
    last = segments[-1] if segments else None
    return not isinstance(last, Text) or not last.text.rpartition("\n")[2].strip()
