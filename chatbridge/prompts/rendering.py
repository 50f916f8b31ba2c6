"""Turns a conversation into a prompt of segments by a template. Knows no tokenizer and no backend.

What people wrote is never parsed, neither for control tokens nor for braces; it goes between a format's parts.
`bodies` makes it safe; `jinja` renders by the models' own chat templates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from chatbridge.errors import TemplateError
from chatbridge.prompts import formats
from chatbridge.prompts.answer_format import PLAIN, AnswerFormat, opens_unseen
from chatbridge.prompts.bodies import Body, BodyWriter
from chatbridge.prompts.builtin import for_model, nearest_preset
from chatbridge.prompts.confusables import LINE_END
from chatbridge.prompts.formats import Control, FormatPart, Placeholder
from chatbridge.prompts.guard import Guard, guard_of
from chatbridge.prompts.rendered import RenderedPrompt, tidied
from chatbridge.prompts.reply_ids import ReplyIds, is_as_sampled
from chatbridge.prompts.segments import Segment, Special, Text
from chatbridge.prompts.telling import OptionsError
from chatbridge.prompts.template import OWN, Template
from chatbridge.types import ModelInfo, Role, Turn

if TYPE_CHECKING:
    from chatbridge.prompts.jinja_renderer import JinjaRenderer


def render(
    template: Template,
    turns: Sequence[Turn],
    *,
    info: ModelInfo,
    variables: Mapping[str, str] | None = None,
    continue_last: bool = False,
    renderer: JinjaRenderer | None = None,
    options: Mapping[str, Any] | None = None,
) -> RenderedPrompt:
    """The prompt after which the model answers `turns`.

    System turns go first; without any, the template's own `system` does, and an empty one is none at all. Neighbouring
    turns of a role are joined.
    `variables`: values for {user} {channel} {bot} {date} {time} in trusted system text. `continue_last`: the last
    turn is an unfinished answer, and the model goes on right behind it. `renderer`: what runs Jinja templates; its
    limits apply, and it blocks, so an event loop calls this by `JinjaRenderer.off_loop`. `options`: values for
    variables of a Jinja template, as `enable_thinking`.
    Raises: TemplateError where the template can't express the conversation, or has no such variable.
    """
    template = for_model(template, info)
    if continue_last and (not turns or turns[-1].role != "assistant"):
        raise TemplateError("only an answer can be continued, and the conversation does not end with one")
    system = [turn for turn in turns if turn.role == "system" and turn.text.strip()]
    silent = not system and any(turn.role == "system" for turn in turns)
    if not system and not silent and template.system:
        system = [Turn("system", template.system, trusted=True)]
    spoken = joined([turn for turn in turns if turn.role != "system"])
    if template.jinja is not None:
        from chatbridge.prompts.jinja import render_jinja

        try:
            return render_jinja(
                template, system, spoken, info, variables or {}, continue_last, renderer, options, silent
            )
        except TemplateError as error:
            wrong_options = isinstance(error, OptionsError)
            if wrong_options or template.jinja != OWN or (near := nearest_preset(info)) is None:
                raise
            raise type(error)(f"{error}; `template: {near}` comes nearest to what it writes") from error
    if options:
        raise OptionsError(
            f"the template {template.name!r} has no variables for `template_options`; only Jinja templates have, such "
            "as `template: model`"
        )
    words = BodyWriter(template, guard_of(template), variables or {}, ReplyIds.for_model(info))
    writer = _Writer(words, system)
    writer.conversation(spoken, continue_last)
    answer = answer_of(template, info)
    prompt = tidied(part for part in writer.segments if info.add_bos or part != Special("bos"))
    return RenderedPrompt(
        prompt,
        template.stop,
        template.stop_tokens,
        answer=answer,
        rewritten=writer.rewritten,
        speakers=words.speakers,
    )


def guard_for(
    template: Template,
    info: ModelInfo,
    renderer: JinjaRenderer | None = None,
    options: Mapping[str, Any] | None = None,
) -> Guard:
    """What keeps text from passing for a header of the template, or of the model's own one."""
    template = for_model(template, info)
    if template.jinja is None:
        return guard_of(template)
    from chatbridge.prompts.jinja import learn, source_of

    return learn(source_of(template, info), info, (*template.headers, *template.stop), renderer, options)[0]


def answer_of(
    template: Template,
    info: ModelInfo,
    renderer: JinjaRenderer | None = None,
    options: Mapping[str, Any] | None = None,
) -> AnswerFormat:
    """How answers to the template's prompts are written. `renderer`, `options`: see `render`."""
    template = for_model(template, info)
    if template.jinja is None:
        return PLAIN.doubted(opens_unseen(info.chat_template))
    from chatbridge.prompts.jinja import probed, source_of

    found = probed(source_of(template, info), info, renderer, options).answer
    return found.doubted(template.jinja != OWN and opens_unseen(info.chat_template))


def joined(turns: Iterable[Turn]) -> list[tuple[Role, Body]]:
    """The conversation with neighbouring turns of one role as one."""
    return [(role, Body(tuple(together))) for role, together in groupby(turns, lambda turn: turn.role)]


class _Writer:
    """Writes one prompt by a template's formats, and knows whether it stands where a line begins."""

    def __init__(self, words: BodyWriter, system: Sequence[Turn]) -> None:
        self.segments: list[Segment] = []
        self.rewritten = 0
        self._bodies = words
        self._template = words.template
        self._system = system
        self._round = 0

    def conversation(self, spoken: Sequence[tuple[Role, Body]], continue_last: bool) -> None:
        template = self._template
        roles = [role for role, _ in spoken]
        alone = roles == ["user"] or (continue_last and roles == ["user", "assistant"])
        lone = formats.parse(template.single) if template.single is not None and alone else None
        user = formats.parse(template.user)
        assistant = formats.parse(template.assistant)
        opening = assistant.index(Placeholder("text"))
        masks = self._masks(spoken)

        self._parts(formats.parse(template.begin), None)
        inside = Placeholder("system") in (user if lone is None else lone) and "user" in roles
        if self._system and not inside:
            self._system_turn()
        for at, (role, body) in enumerate(spoken):
            if role == "user":
                self._parts(user if lone is None else lone, body)
                self._round += 1
            elif continue_last and at == len(spoken) - 1:
                self._open(() if lone is not None else assistant[:opening], masks)
                self._body("assistant", body)
            else:
                self._parts(assistant, body, "assistant")
        if not continue_last:
            self._open(() if lone is not None else assistant[:opening], masks)

    def _open(self, opening: Sequence[FormatPart], masks: str) -> None:
        self._parts(opening, None, "assistant")
        self._parts(formats.parse(masks or self._template.generate), None, "assistant")

    def _parts(self, parts: Sequence[FormatPart], body: Body | None, role: Role = "user") -> None:
        for part in parts:
            if isinstance(part, str):
                self._write(Text(part))
            elif isinstance(part, Control):
                self._write(Special(part.token))
            elif part.name == "round":
                # An answer belongs to the round of the message before it.
                self._write(Text(str(self._round if role == "user" else max(0, self._round - 1))))
            elif part.name == "system":
                self._system_turn()
            elif body is not None:
                self._body(role, body)

    def _system_turn(self) -> None:
        if not self._system:
            return
        for part in formats.parse(self._template.system_turn):
            if part == Placeholder("text"):
                self._write(*self._bodies.system(self._system, line_start=self._line_start()))
            else:
                self._parts((part,), None)
        self._system = ()

    def _body(self, role: Role, body: Body) -> None:
        if role == "user":
            self._write(*self._bodies.user(body, line_start=self._line_start()))
            return
        # Such a template knows no thoughts: an answer that had one goes back without it.
        same = all(turn.reply is None or is_as_sampled(turn.reply, "") for turn in body.turns)
        self.rewritten += sum(self._bodies.ids.knows(turn.reply) for turn in body.turns) if not same else 0
        self._write(*self._bodies.assistant(body, line_start=self._line_start(), as_sampled=same))

    def _write(self, *segments: Segment) -> None:
        self.segments.extend(segment for segment in segments if not isinstance(segment, Text) or segment.text)

    def _line_start(self) -> bool:
        """Whether only blanks stand between the last line end, or control token, and here."""
        for segment in reversed(self.segments):
            if not isinstance(segment, Text):
                return isinstance(segment, Special)
            if segment.text.strip() and not _ends_line(segment.text):
                return False
            if _ends_line(segment.text):
                return True
        return True

    def _masks(self, spoken: Sequence[tuple[Role, Body]]) -> str:
        """What stands for `generate` where trusted text has a mask for the model to fill in, else nothing."""
        last = next((body.turns[-1] for role, body in reversed(spoken) if role == "user"), None)
        if last is None or not last.trusted or not any(mask in last.text for mask in self._template.masks):
            return ""
        if self._bodies.tidy(last.text).endswith(self._template.masks):
            return self._template.generate_mask_last
        return self._template.generate_mask_inside


def _ends_line(text: str) -> bool:
    """Whether a line end comes behind all that can be seen."""
    blanks = text[len(text.rstrip()) :]
    return bool(LINE_END.search(blanks))
