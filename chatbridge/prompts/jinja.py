"""Renders by a Jinja chat template, as models bring them, without letting it see what people wrote.

The template gets a unique sentinel in the place of each content, and its output is cut at the sentinels. What lies
between is the template's own text, in which the model's control tokens are looked for. The template itself runs in
a limited process of its own, see `jinja_renderer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product, takewhile

from chatbridge.errors import TemplateError
from chatbridge.prompts.answer_format import frame_parts, opens_unseen
from chatbridge.prompts.bodies import Body, BodyWriter
from chatbridge.prompts.cache import ByteLru, weight
from chatbridge.prompts.formats import Control, FormatPart, Placeholder
from chatbridge.prompts.guard import Guard, guard_against
from chatbridge.prompts.jinja_renderer import JinjaRenderer, TemplateLimitError, shared_renderer
from chatbridge.prompts.probing import Probed, probe
from chatbridge.prompts.rendered import RenderedPrompt, tidied
from chatbridge.prompts.reply_ids import THOUGHT, ReplyIds, is_as_sampled
from chatbridge.prompts.segments import Prompt, Segment, Special, Text
from chatbridge.prompts.template import OWN, Template
from chatbridge.types import ModelInfo, Role, Turn

# Private-use characters have no upper case; the blanks around tell whether the template strips its contents; and
# the backslash does not survive quoting as JSON, whose quotes a person could otherwise close.
_SENTINEL = "\u2003\ue000{}\\\ue001\u2003"
_SENTINELS = re.compile("(\u2003?)\ue000([\ue100-\uf8ff]+)\\\\\ue001(\u2003?)")
_BOS, _EOS = "\ue002", "\ue003"
_JOINT = "\n"


@dataclass(frozen=True, slots=True)
class _Message:
    """One entry for the template: its role, which contents it is made of, and which one is its thought, if any.

    `frame`: the marks that the answer was written with, see `Reply`.
    """

    role: Role
    contents: tuple[int, ...]
    thought: int | None = None
    frame: str | None = None

    def __or__(self, other: _Message) -> _Message:
        return _Message(other.role, (*self.contents, *other.contents))

    def told(self, probed: Probed) -> dict[str, str]:
        """As the template gets it: the thought by its key, or within the content where the template knows no key."""
        content = _JOINT.join(map(_sentinel, self.contents))
        if self.thought is None:
            return {"role": self.role, "content": content}
        thought, answer = _sentinel(self.thought), probed.answer
        if probed.key:
            return {"role": self.role, "content": content, probed.key: thought}
        marks = answer.marks_of(self.frame)
        if (frame_parts(self.frame) or ("", "", ""))[2]:
            content = f"{answer.between}\n{content}\n{answer.end}"
        return {"role": self.role, "content": f"{marks.opening}\n{thought}\n{marks.closing}\n\n{content}"}


@dataclass(frozen=True, slots=True)
class _Content:
    """A sentinel found in the output: which content goes there, and whether the template strips it left or right."""

    index: int
    lstrip: bool
    rstrip: bool


_Part = str | Special | _Content


@dataclass(frozen=True, slots=True)
class _Plan:
    """Messages that tell the template of the conversation. `note`: what is other than asked for, in words."""

    messages: tuple[_Message, ...]
    note: str = ""

    def thinking(self, turns: Mapping[int, str | None], first: int) -> _Plan:
        """The same with the thoughts of these turns, whose indices begin at `first`; how each was framed."""
        messages = (
            replace(entry, thought=first + entry.contents[0], frame=turns[entry.contents[0]])
            if entry.role == "assistant" and entry.contents[0] in turns
            else entry
            for entry in self.messages
        )
        return _Plan(tuple(messages), self.note)


@dataclass(slots=True)
class _Chat:
    """A chat template, for one model."""

    source: str
    info: ModelInfo
    renderer: JinjaRenderer
    probed: Probed = field(default_factory=Probed)

    def write(self, messages: Sequence[_Message], *, generate: bool) -> list[_Part]:
        """The pieces of the prompt. Raises TemplateError unless every content is there once, and no thought twice."""
        parts = self.cut(self.output([entry.told(self.probed) for entry in messages], generate))
        found = sorted(part.index for part in parts if isinstance(part, _Content))
        thoughts = [entry.thought for entry in messages if entry.thought is not None]
        if any(found.count(thought) > 1 for thought in thoughts):
            raise TemplateError("the model's chat template writes the thought of an answer twice")
        found = [index for index in found if index not in thoughts]
        wanted = sorted(index for message in messages for index in message.contents)
        if found != wanted:
            lost = next(entry.role for entry in messages if any(found.count(i) != 1 for i in entry.contents))
            raise TemplateError(
                f"the model's chat template does not give the text of a {lost} turn back exactly once; choose "
                "another template with `template:` (chatbridge templates lists them)"
            )
        return parts

    def output(self, messages: Sequence[Mapping[str, str]], generate: bool) -> str:
        """What the template writes, with marks for BOS and EOS."""
        values = {
            "messages": messages,
            "add_generation_prompt": generate,
            "bos_token": _BOS if self.info.bos is not None else "",
            "eos_token": _EOS if self.info.eos else "",
            "tools": None,
            "documents": None,
        }
        return self.renderer.output(self.source, values)

    def named(self, messages: Sequence[Mapping[str, str]], generate: bool) -> str:
        """The same with the end token by its name, and without BOS."""
        end = next((name for name, id in self.info.specials.items() if id in self.info.eos[:1]), "")
        return self.output(messages, generate).replace(_BOS, "").replace(_EOS, end)

    def cut(self, output: str) -> list[_Part]:
        parts: list[_Part] = []
        end = 0
        for match in _SENTINELS.finditer(output):
            parts += [*self._controls(output[end : match.start()]), _content(match)]
            end = match.end()
        return [*parts, *self._controls(output[end:])]

    def _controls(self, text: str) -> list[_Part]:
        """The template's own text, with its control tokens told apart, the longest first."""
        names = sorted((name for name in self.info.specials if name and name in text), key=len, reverse=True)
        split = re.split("(" + "|".join(map(re.escape, (_BOS, _EOS, *names))) + ")", text)
        return [self._control(part) if at % 2 else part for at, part in enumerate(split) if part]

    def _control(self, token: str) -> Special:
        bos = token == _BOS or (self.info.bos is not None and self.info.specials.get(token) == self.info.bos)
        return Special("bos" if bos else "eos" if token == _EOS else token)


def render_jinja(
    template: Template,
    system: Sequence[Turn],
    spoken: Sequence[tuple[Role, Body]],
    info: ModelInfo,
    variables: Mapping[str, str],
    continue_last: bool,
    renderer: JinjaRenderer | None = None,
) -> RenderedPrompt:
    """See `chatbridge.prompts.rendering.render`."""
    renderer = renderer or shared_renderer()
    source = source_of(template, info)
    found = probed(source, info, renderer)
    chat = _Chat(source, info, renderer, found)
    plans = _plans([role for role, _ in spoken], bool(system))
    if thoughts := _thoughts(spoken):
        plans = [*(plan.thinking(thoughts, len(spoken) + 1) for plan in plans), *plans]
    parts, note = _first_that_works(chat, plans, generate=not continue_last)
    guard, stop_tokens = learn(source, info, (*template.headers, *template.stop), renderer)
    answer = found.answer.doubted(template.jinja != OWN and opens_unseen(info.chat_template))
    bodies = BodyWriter(template, guard, variables, ReplyIds.for_model(info, answer))
    last = max((at for at, part in enumerate(parts) if isinstance(part, _Content)), default=len(parts) - 1)
    generation = chat.cut(found.generation_prompt) if continue_last else parts[last + 1 :]
    writer = _Writer(bodies, system, spoken, generation, answer.end)
    writer.write(parts[: last + 1] if continue_last else parts)
    return RenderedPrompt(
        _one_bos(writer.segments, info),
        template.stop,
        (*template.stop_tokens, *stop_tokens),
        (note,) if note else (),
        answer,
        writer.rewritten,
        bodies.speakers,
    )


def _thoughts(spoken: Sequence[tuple[Role, Body]]) -> dict[int, str | None]:
    """Which turns are one answer that had a thought, and how it was framed."""
    answers = {at: body.turns[0].reply for at, (_, body) in enumerate(spoken) if len(body.turns) == 1}
    return {at: reply.frame for at, reply in answers.items() if reply is not None and reply.thoughts}


class _Writer:
    """Puts a conversation in the places that a template has left for it."""

    def __init__(
        self,
        bodies: BodyWriter,
        system: Sequence[Turn],
        spoken: Sequence[tuple[Role, Body]],
        generation: Sequence[_Part],
        end: str,
    ) -> None:
        self.segments: list[Segment] = []
        self.rewritten = 0
        self._bodies, self._system, self._spoken = bodies, system, spoken
        self._generation: list[Segment] = [
            Text(part) if isinstance(part, str) else part for part in generation if not isinstance(part, _Content)
        ]
        self._end = end
        self._turn = 0  # where the segments of this turn begin, and what it says so far
        self._said = ""
        self._sampled = ""  # the mark that the latest answer's ids end with

    def write(self, parts: Sequence[_Part]) -> None:
        for at, part in enumerate(parts):
            if not isinstance(part, _Content):
                self._own(part)
            elif part.index > len(self._spoken):
                reply = self._spoken[part.index - len(self._spoken) - 1][1].turns[0].reply
                assert reply is not None, "a thought is told of answers that had one"
                self._put(self._bodies.thought(reply.thoughts or "", line_start=_starts_line(self.segments)), part)
                self._said += THOUGHT
            else:
                self._content(part, _said(takewhile(lambda part: not isinstance(part, _Content), parts[at + 1 :])))
                self._turn, self._said = len(self.segments), ""

    def _own(self, part: str | Special) -> None:
        """The template's own text, but for what an answer's ids have said already."""
        text = part if isinstance(part, str) else part.token
        if self._sampled and text.strip():
            text, self._sampled = text.lstrip().removeprefix(self._sampled), ""
            part = text if isinstance(part, str) or not text else part
        self.segments.append(Text(part) if isinstance(part, str) else part)
        self._said += text

    def _content(self, part: _Content, behind: str) -> None:
        start = _starts_line(self.segments)
        if part.index == len(self._spoken):
            self._put(self._bodies.system(self._system, line_start=start), part)
        elif part.index >= 0:
            role, body = self._spoken[part.index]
            if role == "assistant":
                self._answer(body, part, behind)
            else:
                self._put(self._bodies.user(body, line_start=start), part)

    def _answer(self, body: Body, part: _Content, behind: str) -> None:
        generation = _said(self._generation)
        known = [turn.reply for turn in body.turns if turn.reply is not None]
        same = all(is_as_sampled(reply, self._said, generation, behind) for reply in known)
        if same and self._bodies.has_ids(body.turns[0], line_start=_starts_line(self._generation)):
            self.segments[self._turn :] = self._generation
            self._sampled = self._end if (frame_parts(known[-1].frame) or ("", "", ""))[2] else ""
        else:
            self.rewritten += sum(map(self._bodies.ids.knows, known))
            same = False
        start = _starts_line(self.segments)
        self._put(self._bodies.assistant(body, line_start=start, as_sampled=same), part)

    def _put(self, written: list[Segment], part: _Content) -> None:
        self.segments += _stripped(written, part)


def _said(parts: Iterable[_Part | Segment]) -> str:
    """The template's own text of a row of parts, control tokens by their names."""
    return "".join(
        part if isinstance(part, str) else part.text if isinstance(part, Text) else part.token
        for part in parts
        if isinstance(part, str | Text | Special)
    )


def source_of(template: Template, info: ModelInfo) -> str:
    """The Jinja source. Raises TemplateError if it should be the model's own and the model has none."""
    if template.jinja != OWN:
        return template.jinja or ""
    if not info.chat_template:
        from chatbridge.prompts.builtin import suggest_preset

        fits = suggest_preset(info)
        hint = f"template: {fits} fits it" if fits else "set `template:` (chatbridge templates lists them)"
        raise TemplateError(f"the model {info.name!r} brings no chat template of its own; {hint}")
    return info.chat_template


def probed(source: str, info: ModelInfo, renderer: JinjaRenderer | None = None) -> Probed:
    """How answers to the template's prompts are written."""
    vocabulary = _Vocabulary(info.bos, info.eos, tuple(info.specials.items()))
    return _PROBED.get(
        (source, vocabulary), lambda: probe(source, _Chat(source, info, renderer or shared_renderer()).named)
    )


def learn(
    source: str, info: ModelInfo, headers: Sequence[str] = (), renderer: JinjaRenderer | None = None
) -> tuple[Guard, tuple[str, ...]]:
    """Renders samples: the guard against the headers that the template writes, and the tokens that end its answers."""
    vocabulary = _Vocabulary(info.bos, info.eos, tuple(info.specials.items()))
    # The renderer is no part of the key: it would be kept alive, and all that its limits are asked of.
    key = (source, vocabulary, tuple(headers))
    return _LEARNED.get(key, lambda: _learn(*key, renderer or shared_renderer()))


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The part of a ModelInfo that a template can see; unlike that, it can be a key."""

    bos: int | None
    eos: tuple[int, ...]
    specials: tuple[tuple[str, int], ...]


_Learned = tuple[Guard, tuple[str, ...]]
_NO_MODEL = ModelInfo("", "", 0, 0, "", "", ())


def _size(key: tuple[str, _Vocabulary, tuple[str, ...]], learned: _Learned) -> int:
    source, vocabulary, headers = key
    names = (name for name, _ in vocabulary.specials)
    return weight((source, *headers, *names, *(header.looks for header in learned[0].headers)))


def _probed_size(key: tuple[str, _Vocabulary], found: Probed) -> int:
    return weight((key[0], *(name for name, _ in key[1].specials), *found.answer.texts))


_PROBED: ByteLru[tuple[str, _Vocabulary], Probed] = ByteLru(8 << 20, _probed_size, largest=1 / 2)
_LEARNED: ByteLru[tuple[str, _Vocabulary, tuple[str, ...]], _Learned] = ByteLru(8 << 20, _size, largest=1 / 2)


def _learn(source: str, vocabulary: _Vocabulary, headers: tuple[str, ...], renderer: JinjaRenderer) -> _Learned:
    info = replace(_NO_MODEL, eos=vocabulary.eos, bos=vocabulary.bos, specials=dict(vocabulary.specials))
    chat = _Chat(source, info, renderer)
    written: list[list[FormatPart]] = []
    ends: dict[str, None] = {}
    samples: tuple[list[Role], ...] = (["user", "assistant", "user", "assistant", "user"], ["user"])
    for system, roles in product((True, False), samples):
        try:
            parts, _ = _first_that_works(chat, _plans(roles, system), generate=True)
        except TemplateLimitError:
            raise
        except TemplateError:
            continue  # a template for one message, or without system text: the other samples tell
        written.append([_as_part(part) for part in parts])
        seen = [part for part in parts if not isinstance(part, str) or part.strip()]
        for part, after in pairwise(seen):
            answered = isinstance(part, _Content) and [*roles, "system"][part.index] == "assistant"
            if answered and isinstance(after, Special) and after.token in info.specials:
                ends[after.token] = None
    return guard_against(written, headers), tuple(ends)


def _as_part(part: _Part) -> FormatPart:
    if isinstance(part, Special):
        return Control(part.token)
    return part if isinstance(part, str) else Placeholder("text")


def _plans(roles: Sequence[Role], system: bool) -> list[_Plan]:
    """Ways to tell the conversation, the plain one first. The system text has the index after the turns'."""
    turns = [_Message(role, (at,)) for at, role in enumerate(roles)]
    plans = []
    if system:
        text = _Message("system", (len(turns),))
        plans.append(_Plan((text, *turns)))
        note = "the model's chat template takes no system text: it stands before the first message instead"
        if turns and turns[0].role == "user":
            plans.append(_Plan((text | turns[0], *turns[1:]), note))
        else:
            plans.append(_Plan((_Message("user", text.contents), *turns), note))
    else:
        plans.append(_Plan(tuple(turns)))
        if turns and turns[0].role == "assistant":
            note = "the model's chat template wants a message first: an empty one stands before the answer"
            plans.append(_Plan((_Message("user", (-1,)), *turns), note))
    return plans


def _first_that_works(chat: _Chat, plans: Sequence[_Plan], *, generate: bool) -> tuple[list[_Part], str]:
    failed: TemplateError | None = None
    for plan in plans:
        try:
            return chat.write(plan.messages, generate=generate), plan.note
        except TemplateLimitError:
            raise
        except TemplateError as error:
            failed = failed or error
    raise failed or TemplateError("there is nothing to render")


def _sentinel(index: int) -> str:
    return _SENTINEL.format("".join(chr(0xE100 + int(digit)) for digit in str(index + 1)))


def _content(match: re.Match[str]) -> _Content:
    index = int("".join(str(ord(char) - 0xE100) for char in match[2])) - 1
    return _Content(index, lstrip=not match[1], rstrip=not match[3])


def _stripped(written: list[Segment], content: _Content) -> list[Segment]:
    """The content without its outer blanks, where the template strips them. Sampled ids stay as they are."""
    written = list(tidied(written))
    if written and content.lstrip and isinstance(written[0], Text):
        written[0] = Text(written[0].text.lstrip(), written[0].origin)
    if written and content.rstrip and isinstance(written[-1], Text):
        written[-1] = Text(written[-1].text.rstrip(), written[-1].origin)
    return written


def _starts_line(segments: Sequence[Segment]) -> bool:
    last = segments[-1] if segments else None
    return not isinstance(last, Text) or not last.text.rpartition("\n")[2].strip()


def _one_bos(segments: Sequence[Segment], info: ModelInfo) -> Prompt:
    """The prompt with one BOS at its beginning, if the model wants one."""
    prompt = tidied(segments)
    while prompt[:1] == (Special("bos"),):
        prompt = prompt[1:]
    return prompt if info.bos is None else (Special("bos"), *prompt)
