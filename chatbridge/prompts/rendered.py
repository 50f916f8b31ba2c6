"""What rendering gives: a prompt, and what ends the answer to it. Knows no template."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chatbridge.prompts.answer_format import PLAIN, AnswerFormat
from chatbridge.prompts.segments import Prompt, Segment, Text, Tokens


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt, and what ends the answer to it.

    `notes`: what the template could not say as it was asked to. `answer`: how the answer to it is written.
    `rewritten`: how many answers go back as text, since the template writes them otherwise than they were sampled.
    `speakers`: how lines of those begin who are named in it, the bot's own first; () where nobody is.
    """

    prompt: Prompt
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    answer: AnswerFormat = PLAIN
    rewritten: int = 0
    speakers: tuple[str, ...] = ()


def tidied(segments: Iterable[Segment]) -> Prompt:
    """The segments without empty ones, texts of one origin put together."""
    tidy: list[Segment] = []
    for segment in segments:
        if (isinstance(segment, Text) and not segment.text) or (isinstance(segment, Tokens) and not segment.ids):
            continue
        last = tidy[-1] if tidy else None
        if isinstance(segment, Text) and isinstance(last, Text) and segment.origin == last.origin:
            tidy[-1] = Text(last.text + segment.text, segment.origin)
        else:
            tidy.append(segment)
    return tuple(tidy)
