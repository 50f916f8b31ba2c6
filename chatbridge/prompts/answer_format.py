"""How a model writes an answer: what opens and closes its thinking, and what stands around the answer itself.

A value that rendering finds (see `probing`) and the engine reads answers by. Marks are texts in which a control token
stands by its name. Knows no template and no tokenizer; the table below holds what no template says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

_MARK = re.compile(r"</?[^<>\s]{1,64}>|\[/?[^\[\]\n]{1,64}\]|[^\s<\[]+")


@dataclass(frozen=True, slots=True)
class ThinkingMarks:
    """What stands before and behind a thought: `<think>` and `</think>`, or what a template writes in their place."""

    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How an answer is written behind the generation prompt.

    `thinking`: what may open and close a thought. `lead`: what an answer without a thought begins with, as gpt-oss's
    `<|channel|>final<|message|>`. `between`: what stands between the mark that closes a thought and the answer; the
    part before `lead` begins any further block. `end`: what an answer in marks of its own ends with. `unsure`: the
    model may begin within a thought, though its prompt shows none: it was trained with another template.
    """

    thinking: tuple[ThinkingMarks, ...]
    lead: str = ""
    between: str = ""
    end: str = ""
    unsure: bool = False

    def doubted(self, unsure: bool) -> AnswerFormat:
        """The same, or, where `unsure`, as of a model that may begin within a thought."""
        return replace(self, unsure=True) if unsure else self

    @property
    def block_head(self) -> str:
        """What each block but the first begins with, "" where an answer is at most one thought and one text."""
        if not self.between or not self.lead:
            return ""
        return self.between.removesuffix(self.lead) if self.between.endswith(self.lead) else ""

    def marks_of(self, frame: str | None) -> ThinkingMarks:
        """The marks that a thought was written with, by `Reply.frame`; the first where that says nothing of them."""
        before, between, _ = frame_parts(frame) or ("", "", "")
        for marks in self.thinking:
            opening = "".join(marks.opening.split())
            if between.startswith(marks.closing) and before in ("", opening):
                return marks
        return self.thinking[0]

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is no text of the model's own where it stands in its place."""
        marks = (text for marks in self.thinking for text in (marks.opening, marks.closing))
        return tuple(dict.fromkeys(filter(None, (*marks, self.lead, self.between, self.end))))

    def controls(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the control tokens `names` that are part of a mark."""
        marks = "\0".join(self.texts)
        return tuple(name for name in names if name and name in marks)


COMMON = (
    ThinkingMarks("<think>", "</think>"),
    ThinkingMarks("<thinking>", "</thinking>"),
    ThinkingMarks("<thought>", "</thought>"),
    ThinkingMarks("<seed:think>", "</seed:think>"),
    ThinkingMarks("<mm:think>", "</mm:think>"),
    ThinkingMarks("[THINK]", "[/THINK]"),
    ThinkingMarks("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThinkingMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingMarks("<|channel>thought\n", "<channel|>"),  # Gemma 4
)
"""Marks that answers of any model may begin with: many templates say nothing of the thoughts their models write."""

PLAIN = AnswerFormat(COMMON)
"""Of what nothing else is known."""

HARMONY = AnswerFormat(
    (ThinkingMarks("<|channel|>analysis<|message|>", "<|end|>"), *COMMON),
    lead="<|channel|>final<|message|>",
    between="<|start|>assistant<|channel|>final<|message|>",
)
"""gpt-oss: https://github.com/openai/harmony, docs/format.md. What is in another channel is not for people."""

# What stands in a template's source, or in a system text of its own, where it does not write the answers' marks itself.
_UNTOLD: tuple[tuple[tuple[str, ...], AnswerFormat], ...] = (
    (("<|channel|>", "<|message|>", "<|start|>assistant"), HARMONY),
    (
        ("<think></think>", "<response></response>"),  # Granite 3.3 asks for it in words
        AnswerFormat(COMMON, between="<response>", end="</response>"),
    ),
    (
        ("[BEGIN FINAL RESPONSE]",),  # Apriel
        AnswerFormat(COMMON, between="[BEGIN FINAL RESPONSE]", end="[END FINAL RESPONSE]"),
    ),
)


def frame_parts(frame: str | None) -> tuple[str, str, str] | None:
    """The marks before a thought, behind it, and behind the answer, of a `Reply.frame`; None where it is not known."""
    parts = tuple((frame or "  ").split(" ")) if frame is not None else ()
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None


def untold(source: str) -> AnswerFormat:
    """What is known of the answers to prompts of a template, by words in its source; `PLAIN` where nothing is."""
    return next((known for words, known in _UNTOLD if all(word in source for word in words)), PLAIN)


def opens_unseen(chat_template: str | None) -> bool:
    """Whether the model was trained with generation prompts that open a thought, which another template's do not."""
    generation = (chat_template or "").rpartition("add_generation_prompt")[2]
    return any(marks.opening in generation and marks.closing not in generation for marks in COMMON)


def first_mark(text: str) -> str:
    """The mark that `text` begins with: one in angle or square brackets, or else its first word."""
    found = _MARK.match(text)
    return found[0] if found else text


def bare(text: str) -> str:
    """A mark as answers have it: without blanks around, but for the one that ends a bare word."""
    text = text.lstrip()
    end = len(text.rstrip())
    return text[: end + 1] if text[end - 1 : end].isalnum() else text[:end]
