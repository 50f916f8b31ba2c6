"""Renders by a Jinja chat template, as models bring them, without letting it see what people wrote.

The template gets a unique sentinel in the place of each content, but for a system text that the configuration wrote,
and its output is cut at the sentinels. What lies between is the template's own text, see `jinja_chat`. The template
itself runs in a limited process of its own, see `jinja_renderer`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise, product

from chatbridge.errors import TemplateError
from chatbridge.prompts.answer_format import opens_unseen
from chatbridge.prompts.bodies import Body, BodyWriter
from chatbridge.prompts.cache import ByteLru, weight
from chatbridge.prompts.formats import Control, FormatPart, Placeholder
from chatbridge.prompts.guard import Guard, guard_against
from chatbridge.prompts.jinja_chat import Chat, Content, Message, Part, Shown, first_that_works, plans_for
from chatbridge.prompts.jinja_probe import Told, told_of
from chatbridge.prompts.jinja_renderer import JinjaRenderer, TemplateLimitError, shared_renderer
from chatbridge.prompts.jinja_writer import ChatWriter
from chatbridge.prompts.probing import Probed, probe
from chatbridge.prompts.rendered import RenderedPrompt, tidied
from chatbridge.prompts.reply_ids import ReplyIds
from chatbridge.prompts.segments import Prompt, Segment, Special
from chatbridge.prompts.telling import Options, check_options
from chatbridge.prompts.template import OWN, Template
from chatbridge.types import ModelInfo, Role, Turn

LONG_TEXT = 500
"""Characters that a template says unasked from which on they are worth a word."""


def render_jinja(
    template: Template,
    system: Sequence[Turn],
    spoken: Sequence[tuple[Role, Body]],
    info: ModelInfo,
    variables: Mapping[str, str],
    continue_last: bool,
    renderer: JinjaRenderer | None = None,
    options: Options | None = None,
    silent: bool = False,
) -> RenderedPrompt:
    """See `chatbridge.prompts.rendering.render`. `silent`: the settings want no system text, not even a default."""
    renderer = renderer or shared_renderer()
    source, options = source_of(template, info), options or {}
    check_options(options, source, renderer)
    guard, stop_tokens = learn(source, info, (*template.headers, *template.stop), renderer, options)
    told = told_of(source, info, renderer, options)
    found = probed(source, info, renderer, options)
    answer = found.answer.doubted(template.jinja != OWN and opens_unseen(info.chat_template))
    bodies = BodyWriter(template, guard, variables, ReplyIds.for_model(info, answer))
    shown = Shown.of(len(spoken), bodies.system_pieces(system))
    chat = Chat(source, info, renderer, told.form, options, _moment(variables), shown, found)
    plans = plans_for([role for role, _ in spoken], bool(system))
    first_thought = len(spoken) + 2 + (len(shown.pieces) if shown is not None else 0)
    if thoughts := _thoughts(spoken):
        plans = [*(plan.thinking(thoughts, first_thought) for plan in plans), *plans]
    if silent and told.can_omit:
        plans = [replace(plan, messages=(Message("system", ()), *plan.messages)) for plan in plans] + plans
    parts, note = first_that_works(chat, plans, generate=not continue_last)
    last = max((at for at, part in enumerate(parts) if isinstance(part, Content)), default=len(parts) - 1)
    generation = chat.cut(found.generation_prompt) if continue_last else parts[last + 1 :]
    writer = ChatWriter(bodies, system, spoken, generation, answer.end, first_thought=first_thought, shown=shown)
    writer.write(parts[: last + 1] if continue_last else parts)
    return RenderedPrompt(
        _one_bos(writer.segments, info),
        template.stop,
        (*template.stop_tokens, *stop_tokens),
        (*((note,) if note else ()), *_unasked(told, bool(system), silent)),
        answer,
        writer.rewritten,
        bodies.speakers,
    )


def _thoughts(spoken: Sequence[tuple[Role, Body]]) -> dict[int, str | None]:
    """Which turns are one answer that had a thought, and how it was framed."""
    answers = {at: body.turns[0].reply for at, (_, body) in enumerate(spoken) if len(body.turns) == 1}
    return {at: reply.frame for at, reply in answers.items() if reply is not None and reply.thoughts}


def _unasked(told: Told, given: bool, silent: bool) -> Iterator[str]:
    """What the template says unasked, in words. `given`: there is a system text; `silent`: there is to be none."""
    if not given and told.default >= LONG_TEXT and not (silent and told.can_omit):
        remedy = 'set one, or `system: ""` for none' if told.can_omit else "set one; an empty one does not leave it out"
        yield (
            "there is no system text, so the model's chat template writes one of its own of "
            f"{told.default:,} characters; {remedy}"
        )
    if told.always >= LONG_TEXT:
        yield (
            f"the model's chat template begins every prompt with {told.always:,} characters of its own; a "
            "preset, set by `template:`, writes none"
        )


def _moment(variables: Mapping[str, str]) -> str:
    """The time that the template's clock shows, in ISO format: that of {date} and {time} in system texts."""
    try:
        return datetime.fromisoformat(f"{variables['date']}T{variables['time']}").isoformat()
    except (KeyError, ValueError):
        return ""


def source_of(template: Template, info: ModelInfo) -> str:
    """The Jinja source of a template as `for_model` gives it."""
    return (info.chat_template if template.jinja == OWN else template.jinja) or ""


def probed(
    source: str, info: ModelInfo, renderer: JinjaRenderer | None = None, options: Options | None = None
) -> Probed:
    """How answers to the template's prompts are written."""
    given, renderer = options or {}, renderer or shared_renderer()

    def found() -> Probed:
        chat = Chat(source, info, renderer, told_of(source, info, renderer, given).form, given)
        return probe(source, chat.named)

    return _PROBED.get((source, _Vocabulary.of(info), json.dumps(given, sort_keys=True)), found)


def learn(
    source: str,
    info: ModelInfo,
    headers: Sequence[str] = (),
    renderer: JinjaRenderer | None = None,
    options: Options | None = None,
) -> tuple[Guard, tuple[str, ...]]:
    """Renders samples: the guard against the headers that the template writes, and the tokens that end its answers."""
    # The renderer is no part of the key: it would be kept alive, and all that its limits are asked of.
    key = (source, _Vocabulary.of(info), tuple(headers), json.dumps(options or {}, sort_keys=True))
    return _LEARNED.get(key, lambda: _learn(*key, renderer or shared_renderer()))


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The part of a ModelInfo that a template can see; unlike that, it can be a key."""

    bos: int | None
    add_bos: bool
    eos: tuple[int, ...]
    specials: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, info: ModelInfo) -> _Vocabulary:
        return cls(info.bos, info.add_bos, info.eos, tuple(info.specials.items()))

    def info(self) -> ModelInfo:
        return replace(_NO_MODEL, eos=self.eos, bos=self.bos, add_bos=self.add_bos, specials=dict(self.specials))


_Key = tuple[str, _Vocabulary, tuple[str, ...], str]
_Learned = tuple[Guard, tuple[str, ...]]
_NO_MODEL = ModelInfo("", "", 0, 0, "", "", ())


def _size(key: _Key, learned: _Learned) -> int:
    source, vocabulary, headers, options = key
    names = (name for name, _ in vocabulary.specials)
    return weight((source, *headers, options, *names, *(header.looks for header in learned[0].headers)))


def _probed_size(key: tuple[str, _Vocabulary, str], found: Probed) -> int:
    return weight((key[0], key[2], *(name for name, _ in key[1].specials), *found.answer.texts))


_PROBED: ByteLru[tuple[str, _Vocabulary, str], Probed] = ByteLru(8 << 20, _probed_size, largest=1 / 2)
_LEARNED: ByteLru[_Key, _Learned] = ByteLru(8 << 20, _size, largest=1 / 2)


def _learn(
    source: str, vocabulary: _Vocabulary, headers: tuple[str, ...], options: str, renderer: JinjaRenderer
) -> _Learned:
    info, given = vocabulary.info(), json.loads(options)
    chat = Chat(source, info, renderer, told_of(source, info, renderer, given).form, given)
    written: list[list[FormatPart]] = []
    ends: dict[str, None] = {}
    samples: tuple[list[Role], ...] = (["user", "assistant", "user", "assistant", "user"], ["user"])
    for system, roles in product((True, False), samples):
        try:
            parts, _ = first_that_works(chat, plans_for(roles, system), generate=True)
        except TemplateLimitError:
            raise
        except TemplateError:
            continue  # a template for one message, or without system text: the other samples tell
        written.append([_as_part(part) for part in parts])
        seen = [part for part in parts if not isinstance(part, str) or part.strip()]
        for part, after in pairwise(seen):
            answered = isinstance(part, Content) and [*roles, "system"][part.index] == "assistant"
            if answered and isinstance(after, Special) and after.token in info.specials:
                ends[after.token] = None
    return guard_against(written, headers), tuple(ends)


def _as_part(part: Part) -> FormatPart:
    if isinstance(part, Special):
        return Control(part.token)
    return part if isinstance(part, str) else Placeholder("text")


def _one_bos(segments: Sequence[Segment], info: ModelInfo) -> Prompt:
    """The prompt with one BOS at its beginning, where the model adds one; else as many as the template writes."""
    prompt = tidied(segments)
    if info.added_bos is None:
        return prompt
    while prompt[:1] == (Special("bos"),):
        prompt = prompt[1:]
    return (Special("bos"), *prompt)
