"""Tells a model's thoughts from its answer while both come, and takes the marks around them away.

Knows an `AnswerFormat` and text, in which a control token that is a mark stands by its name; knows no tokens. What may
still become a mark is held back until what follows is known, and nothing that was let go is ever taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chatbridge.prompts.answer_format import AnswerFormat, ThinkingMarks


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text to append for the person; `thinking` for what the model says to itself."""

    text: str
    thinking: bool = False


_State = Literal["head", "thinking", "unsure", "name", "answer", "over"]


class AnswerSplitter:
    """One answer in pieces.

    `thinking`: the prompt has opened a thought, by the first marks of `answer`; None where that is not known: then all
    is held back until a mark comes that tells, and what stands before one that only closes was a thought. `own_head`:
    the bot's own name as a speaker's, which an answer may begin with, and which nobody wants to read.
    """

    def __init__(self, answer: AnswerFormat, thinking: bool | None = False, own_head: str = "") -> None:
        self._answer = answer
        self._own_head = own_head
        self._marks = answer.thinking[0] if answer.thinking else ThinkingMarks("", "")
        self._state: _State = "thinking" if thinking else "unsure" if thinking is None else "head"
        self._next = False  # whether the head is not the answer's first
        self._buffer = ""
        self._thoughts = int(bool(thinking))
        self._written = ["", "", ""]  # marks before the thought, between it and the answer, and behind that

    @property
    def thinking(self) -> bool:
        """Whether what comes next belongs to a thought, as far as is known."""
        return self._state in ("thinking", "unsure")

    def takes(self, mark: str) -> bool:
        """Whether a control token may be a mark here; elsewhere it is none, and has no text."""
        return self._state in ("head", "thinking", "unsure") or mark in self._answer.end

    @property
    def frame(self) -> str | None:
        """See `Reply.frame`: the marks that came; None for more than one thought, or where it is not known."""
        if self._thoughts > 1:
            return None
        parts = ["".join(part.split()) for part in self._written]
        return " ".join(parts) if any(parts) else ""

    def feed(self, text: str) -> list[TextDelta]:
        """The text goes on. What can be shown by now."""
        self._buffer += text
        deltas: list[TextDelta] = []
        while self._step(deltas):
            pass
        return deltas

    def finish(self) -> list[TextDelta]:
        """What was held back, now that nothing follows."""
        text, self._buffer = self._buffer, ""
        return [TextDelta(text, self._state == "thinking")] if text and self._state != "over" else []

    def _step(self, deltas: list[TextDelta]) -> bool:
        """Take what can be taken of the buffer; whether the state is another now."""
        if self._state == "head":
            return self._head()
        if self._state == "thinking":
            return self._until(self._marks.closing, deltas, thinking=True)
        if self._state == "unsure":
            return self._unsure(deltas)
        if self._state == "name":
            return self._name()
        if self._state == "answer":
            return self._until(self._answer.end, deltas, thinking=False)
        self._buffer = ""
        return False

    def _head(self) -> bool:
        """Where a thought or the answer begins: which of them."""
        text = self._buffer.lstrip()
        heads = self._heads()
        for head, marks in heads:
            if text.startswith(head):
                self._enter(marks, head, text[len(head) :])
                return True
        if any(head.startswith(text) for head, _ in heads):
            return False
        block = self._answer.block_head if self._next else ""
        if block and text.startswith(block):  # another channel: not for people
            self._enter(self._marks, "", text)
        else:
            self._enter(None, "", self._buffer)
        return True

    def _heads(self) -> list[tuple[str, ThinkingMarks | None]]:
        """What may stand here, each with the marks of the thought that it begins."""
        answer, block = self._answer, self._answer.block_head
        if self._next:
            found: list[tuple[str, ThinkingMarks | None]] = [(answer.between, None)]
            found += [(block + marks.opening, marks) for marks in answer.thinking if block and marks.opening]
        else:
            found = [(marks.opening, marks) for marks in answer.thinking if marks.opening]
            found += [(answer.lead, None), ("" if block else answer.between, None)]
        return [(head, marks) for head, marks in found if head]

    def _enter(self, marks: ThinkingMarks | None, head: str, rest: str) -> None:
        self._written[1 if self._next else 0] += head
        self._state, self._buffer = self._answering if marks is None else "thinking", rest
        if marks is not None:
            self._marks, self._thoughts = marks, self._thoughts + 1

    @property
    def _answering(self) -> _State:
        return "name" if self._own_head else "answer"

    def _name(self) -> bool:
        """Where the answer itself begins: without the bot's own name."""
        text = self._buffer.lstrip()
        if text.startswith(self._own_head):
            self._written[1 if self._next else 0] += self._own_head
            self._buffer = text[len(self._own_head) :]
        elif self._own_head.startswith(text):
            return False
        self._state = "answer"
        return True

    def _until(self, mark: str, deltas: list[TextDelta], *, thinking: bool) -> bool:
        text, found, rest = self._buffer.partition(mark) if mark else (self._buffer, "", "")
        if not found:
            end = len(text) - _begun(text, mark)
            deltas.append(TextDelta(text[:end], thinking))
            self._buffer = text[end:]
            return False
        deltas.append(TextDelta(text, thinking))
        self._buffer = rest
        if thinking:
            self._close(mark)
        else:
            self._written[2] += mark
            self._state = "over"
        return True

    def _unsure(self, deltas: list[TextDelta]) -> bool:
        text = self._buffer.lstrip()
        for head, marks in self._heads():
            if text.startswith(head):
                self._enter(marks, head, text[len(head) :])
                return True
        closings = {marks.closing for marks in self._answer.thinking if marks.closing in self._buffer}
        if not closings:
            return False
        closing = min(closings, key=self._buffer.index)
        thought, _, self._buffer = self._buffer.partition(closing)
        deltas.append(TextDelta(thought, thinking=True))
        self._thoughts += 1
        self._close(closing)
        return True

    def _close(self, mark: str) -> None:
        self._written[1] += mark
        self._next = True
        self._state = "head" if self._answer.between else self._answering


def _begun(text: str, mark: str) -> int:
    """How many of the last characters of `text` begin the mark, which is not in it as a whole."""
    return max((length for length in range(len(mark)) if text.endswith(mark[:length])), default=0)
