"""Finds out how answers to a chat template's prompts are written, by what it writes for small conversations.

The same turn is told with and without a thought, as the last one and as an older one, and with and without a prompt for
the next answer; what differs are the marks. llama.cpp's differential autoparser goes the same way. Knows no template
engine, only a function that writes; what templates do not tell is in the table of `answer_format`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from chatbridge.errors import TemplateError
from chatbridge.prompts.answer_format import (
    COMMON,
    PLAIN,
    AnswerFormat,
    ThinkingMarks,
    bare,
    first_mark,
    untold,
)
from chatbridge.prompts.jinja_renderer import TemplateLimitError

Write = Callable[[Sequence[Mapping[str, str]], bool], str]
"""`write(messages, generate)`: the template's output, control tokens by their names. Raises TemplateError."""

KEYS = ("reasoning_content", "reasoning", "thinking")
"""What a message's thought is called, by the templates of different makers."""

_ASKED, _ANSWER, _THOUGHT, _NEXT = "Qzaskedq", "Qzansweredq", "Qzthoughtq", "Qznextq"


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found of a template.

    `answer`: how answers are written. `key`: what the template calls a message's thought, "" where it takes none.
    `keeps`: thoughts of older turns stay in the prompt. `opens`: the generation prompt opens a thought.
    `generation_prompt`: all that stands behind the last message where an answer is wanted. `turn_end`: what follows an
    answer. `extends`: an older answer without a thought is written as the generation prompt and the answer, so that
    prompts go on as they began; `extends_thinking`: one with a thought. `thinks`: the template knows thoughts.
    """

    answer: AnswerFormat = PLAIN
    key: str = ""
    keeps: bool = False
    opens: bool = False
    generation_prompt: str = ""
    turn_end: str = ""
    extends: bool = True
    extends_thinking: bool = False
    thinks: bool = False

    @property
    def breaks(self) -> bool:
        """Whether the template itself writes older answers otherwise than they were sampled."""
        return not (self.extends_thinking if self.thinks else self.extends)


def probe(source: str, write: Write) -> Probed:
    """What `write` tells of the template `source`. A template that fails on every sample is `Probed()`."""
    generation = _behind(_try(write, [_user(_ASKED)], generate=True), _ASKED)
    old = _try(write, [_user(_ASKED), _assistant(), _user(_NEXT)], generate=True)
    last = _try(write, [_user(_ASKED), _assistant()], generate=False)
    head = _between(old, _ASKED, _ANSWER) or _between(last, _ASKED, _ANSWER) or ""
    found = Probed(
        answer=untold(source),
        generation_prompt=generation or "",
        turn_end=_between(old, _ANSWER, _NEXT) or "",
        extends=old is None or generation is None or _same(head, generation),
    )
    thinking = _by_key(write, generation or "", head) or _inside(source, write)
    if thinking is None:
        lead = found.answer.lead or _lead(head, generation or "", found.answer.thinking, "")
        extends = found.extends or _same(head, (generation or "") + lead)
        return replace(found, answer=replace(found.answer, lead=lead), extends=extends)
    marks, key, keeps, between = thinking
    known = found.answer
    pairs = tuple(dict.fromkeys((marks, *known.thinking)))
    lead = known.lead or _lead(head, generation or "", pairs, between)
    answer = AnswerFormat(pairs, lead, between or known.between or lead, known.end)
    return replace(
        found,
        answer=answer,
        key=key,
        keeps=keeps,
        thinks=True,
        opens=bool(marks.opening) and (generation or "").rstrip().endswith(marks.opening.rstrip()),
        extends_thinking=keeps and _extends(write, key, marks, generation or ""),
    )


_Thinking = tuple[ThinkingMarks, str, bool, str]
"""Marks, the key of the thought, whether older ones stay, and what stands between the closing mark and the answer."""


def _by_key(write: Write, generation: str, head: str) -> _Thinking | None:
    for key in KEYS:
        told = _assistant(**{key: _THOUGHT})
        last = _try(write, [_user(_ASKED), told], generate=False)
        old = _try(write, [_user(_ASKED), told, _user(_NEXT)], generate=True)
        for output in (last, old):
            before, between = _between(output, _ASKED, _THOUGHT), _between(output, _THOUGHT, _ANSWER)
            if before is None or between is None:
                continue
            closing = between.strip()
            if not closing:
                continue
            mark = first_mark(closing)
            # A generation prompt may go on where the thought begins in history, as with a first line of it in words.
            more = generation[len(before.rstrip()) :] if generation.startswith(before.rstrip()) else ""
            opening = _opposite(mark, before) or bare(_rest(before, generation, head) or more) or _last(before)
            return ThinkingMarks(opening, mark), key, _THOUGHT in (old or ""), bare(closing[len(mark) :])
    return None


def _inside(source: str, write: Write) -> _Thinking | None:
    """A template that takes a thought out of the content, or names the marks: the thought is known by what goes."""
    for marks in COMMON:
        if marks.closing not in source:
            continue
        content = f"{marks.opening}\n{_THOUGHT}\n{marks.closing}\n\n{_ANSWER}"
        old = _try(write, [_user(_ASKED), {"role": "assistant", "content": content}, _user(_NEXT)], generate=True)
        if old is None or _ANSWER not in old:
            continue
        # A template may take a thought by its key, and write it nowhere but between calls of tools. A part of a content
        # is called "thinking" as well.
        key = next((key for key in KEYS if key != "thinking" and re.search(rf"""[.'"]{key}\b""", source)), "")
        return marks, key, _THOUGHT in old and not key, ""
    return None


def _extends(write: Write, key: str, marks: ThinkingMarks, generation: str) -> bool:
    """Whether an older turn with a thought goes on as the prompt and what was sampled."""
    if key:
        told = _assistant(**{key: _THOUGHT})
    else:
        told = _assistant(f"{marks.opening}\n{_THOUGHT}\n{marks.closing}\n\n{_ANSWER}")
    before = _between(_try(write, [_user(_ASKED), told, _user(_NEXT)], generate=True), _ASKED, _THOUGHT)
    return before is not None and _squeezed(before).startswith(_squeezed(generation))


def _lead(head: str, generation: str, pairs: Sequence[ThinkingMarks], between: str) -> str:
    """What an older answer begins with besides the generation prompt, without an empty thought."""
    generation = generation.rstrip()
    for marks in pairs:  # a generation prompt may open a thought, or have an empty one
        if generation.endswith(marks.closing):
            generation = generation.removesuffix(marks.closing).rstrip()
        generation = generation.removesuffix(marks.opening.rstrip()).rstrip()
    if not head.startswith(generation):
        return ""
    rest = head[len(generation) :]
    for marks in pairs:
        if marks.closing in rest:
            rest = rest.partition(marks.closing)[2].strip().removeprefix(between)
    return bare(rest)


def _rest(before: str, generation: str, head: str) -> str:
    """The end of `before` that is not how a turn begins; a mark that only begins alike is no part of the beginning."""
    if before.startswith(generation.rstrip()):
        return before[len(generation.rstrip()) :]
    cut = _shared(before, head)
    opened = max(before.rfind("<", 0, cut), before.rfind("[", 0, cut))
    if opened >= 0 and not any(char in before[opened:cut] for char in ">]"):
        cut = opened  # `<|assistant|><think>` and `<|assistant|></think>`
    return before[cut:]


def _opposite(closing: str, before: str) -> str:
    """The opening mark that belongs to `closing`, where `before` ends with it."""
    known = [marks.opening for marks in COMMON if marks.closing == closing]
    for wanted in (*known, closing.replace("/", "", 1)):
        if wanted != closing and before.rstrip().endswith(wanted.rstrip()):
            return wanted
    return ""


def _last(before: str) -> str:
    """What the generation prompt itself opens a thought with: its last line, or the marks at its end."""
    line = before.rstrip().rpartition("\n")[2]
    found = re.search(r"(?:<\|open\|>[^<>]*)?<[^<>\s]*>$", line)
    return found[0] if found else line


def _shared(a: str, b: str) -> int:
    """How many characters both begin with."""
    return next((at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def _same(head: str, generation: str) -> bool:
    return _squeezed(head) == _squeezed(generation)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _assistant(content: str = _ANSWER, **more: str) -> dict[str, str]:
    return {"role": "assistant", "content": content, **more}


def _try(write: Write, messages: Sequence[Mapping[str, str]], *, generate: bool) -> str | None:
    try:
        return write(messages, generate)
    except TemplateLimitError:
        raise
    except TemplateError:
        return None


def _behind(output: str | None, text: str) -> str | None:
    return output.rpartition(text)[2] if output is not None and text in output else None


def _between(output: str | None, first: str, second: str) -> str | None:
    if output is None or first not in output:
        return None
    rest = output.rpartition(first)[2]
    return rest.partition(second)[0] if second in rest else None
