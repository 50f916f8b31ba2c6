"""Which of an earlier answer's ids a model may read again. Knows ids and guards, no template and no tokenizer.

An answer goes back as its template writes it: as the very ids that were sampled, so that prompts go on as they began,
where the template's own text of the turn says the same, marks of thoughts included; else as that text.

The one place where kept ids become part of a prompt: whoever made an answer what it is (a model, somebody who had a
bias set, a file, a row of the store), its ids bring no control token, and nothing that reads as a header, thoughts
included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chatbridge.prompts.answer_format import AnswerFormat, frame_parts
from chatbridge.prompts.guard import Guard
from chatbridge.prompts.segments import Segment, Special, Text, Tokens
from chatbridge.types import ModelInfo, Reply


@dataclass(frozen=True, slots=True)
class ReplyIds:
    """For one model.

    `vocabulary`: its own; `controls`: the ids of its control tokens, and `marks` the names of those among them that its
    answers are marked with.
    """

    vocabulary: str
    controls: frozenset[int] = frozenset()
    marks: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def for_model(cls, info: ModelInfo, answer: AnswerFormat | None = None) -> ReplyIds:
        names = answer.controls(info.specials) if answer is not None else ()
        return cls(info.vocabulary, info.control_ids, {info.specials[name]: name for name in names})

    def knows(self, reply: Reply | None) -> bool:
        """Whether there are ids of this vocabulary."""
        return reply is not None and bool(reply.tokens) and reply.vocabulary == self.vocabulary

    def of(self, reply: Reply, text: str, guard: Guard, *, line_start: bool) -> tuple[int, ...] | None:
        """The ids, without those of control tokens; None where only the `text` of the turn may be used.

        Control tokens have no text of their own, so what is left says exactly what people saw, and the model thought.
        """
        if reply.vocabulary != self.vocabulary or reply.thoughts is None:
            return None
        if reply.thoughts and guard.edits(reply.thoughts, line_start=True):
            return None
        if guard.edits(text, line_start=line_start or bool(reply.thoughts)):
            return None
        if self.controls.isdisjoint(reply.tokens):
            return reply.tokens
        return tuple(token for token in reply.tokens if token in self.marks or token not in self.controls)

    def segments(self, reply: Reply, text: str, guard: Guard, *, line_start: bool) -> list[Segment] | None:
        """The same as a part of a prompt, whose control tokens are the template's: it writes these marks there."""
        ids = self.of(reply, text, guard, line_start=line_start)
        if ids is None or not (ids or reply.tail or not text) or not self._are_framed(ids, reply):
            return None
        written: list[Segment] = []
        run: list[int] = []
        for token in ids:
            if token in self.marks:
                written += (Tokens(tuple(run)), Special(self.marks[token]))
                run = []
            else:
                run.append(token)
        return [*written, Tokens(tuple(run), reply.text), Text(reply.tail)]

    def _are_framed(self, ids: Sequence[int], reply: Reply) -> bool:
        """Whether the marks among the ids are those of the frame, one for one: the template writes no others."""
        if not self.marks:
            return True
        names = "|".join(map(re.escape, sorted(self.marks.values(), key=len, reverse=True)))
        return [self.marks[id] for id in ids if id in self.marks] == re.findall(names, reply.frame or "")


THOUGHT = "\0"
"""What stands for the thought in the text of a turn."""


def is_as_sampled(reply: Reply, turn: str, generation: str = "", behind: str = "") -> bool:
    """Whether a template's text of a turn says what the model was given, and what it sampled. Blanks don't count.

    `turn`: what the template writes between the message before and the answer's text, with `THOUGHT` in the place of
    the thought; `behind`: what follows the text. `generation`: what stood there when the answer was wanted.
    """
    parts = frame_parts(reply.frame if reply.thoughts else reply.frame or "")
    if reply.thoughts is None or parts is None:
        return False
    before, between, after = parts
    wanted = generation + before + (THOUGHT if reply.thoughts else "") + between
    return _squeezed(turn) == _squeezed(wanted) and _squeezed(behind).startswith(after)


def _squeezed(text: str) -> str:
    return "".join(text.split())
