"""Which of an earlier answer's ids a model may read again. Knows ids and guards, no template and no tokenizer.

The one place where kept ids become part of a prompt: whoever made an answer what it is (a model, somebody who had a
bias set, a file, a row of the store), its ids bring no control token, and nothing that reads as a header, thoughts
included.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatbridge.prompts.guard import Guard
from chatbridge.types import ModelInfo, Reply


@dataclass(frozen=True, slots=True)
class ReplyIds:
    """For one model. `vocabulary`: its own; `controls`: the ids of its control tokens."""

    vocabulary: str
    controls: frozenset[int] = frozenset()

    @classmethod
    def for_model(cls, info: ModelInfo) -> ReplyIds:
        return cls(info.vocabulary, info.control_ids)

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
        return tuple(token for token in reply.tokens if token not in self.controls)
