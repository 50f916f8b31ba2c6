"""From a conversation to the request that a backend gets: which turns, which template, which sampling.

Pure: knows templates, settings and exact token counts, and is given all of them; stores nothing and runs no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from chatbridge.engine.backend import Request
from chatbridge.errors import TemplateError
from chatbridge.prompts.builtin import suggest_preset
from chatbridge.prompts.fitting import fit, max_tokens
from chatbridge.prompts.jinja_renderer import JinjaRenderer, shared_renderer
from chatbridge.prompts.rendering import answer_of, guard_for, render
from chatbridge.prompts.reply_ids import ReplyIds
from chatbridge.prompts.segments import Prompt
from chatbridge.prompts.template import Template
from chatbridge.sampling import Sampling
from chatbridge.suggest import did_you_mean
from chatbridge.texts import say
from chatbridge.types import Channel, ModelInfo, Turn

if TYPE_CHECKING:
    from chatbridge.config.settings import ChannelSettings
    from chatbridge.prompts.answer_format import AnswerFormat
    from chatbridge.prompts.guard import Guard
    from chatbridge.store import Conversation, Node


LONG = 8_000
"""Characters from which on a prompt is rendered on another thread."""


@dataclass(frozen=True, slots=True)
class AnswerTarget:
    """What the model is to do: answer the message `asked`, or go on with the `unfinished` answer to it.

    `conversation`: the one that it stands in, where that was read together with it.
    """

    asked: Node
    unfinished: Node | None = None
    conversation: Conversation | None = None


@dataclass(frozen=True, slots=True)
class BuiltRequest:
    """A request. `left_out`: turns of history that had to stay out of it, `newly_dropped` of them since the last one.

    `before`: the text of an unfinished answer that the reply goes on with, where its ids can't be used. `trim`: the
    node that prompts begin at from now on, None for the conversation's first; `trim_moved`: it was another before.
    `clean_up`: what is put right in the answer, see `Template`. `rewritten`: earlier answers that are in the prompt as
    the template writes them, and not as they were sampled.
    """

    request: Request
    left_out: int = 0
    newly_dropped: int = 0
    before: str = ""
    trim: int | None = None
    trim_moved: bool = False
    clean_up: str = ""
    rewritten: int = 0

    def notices(self, language: str) -> list[str]:
        """What the person should be told before the answer."""
        return [say(language, "left_out", count=self.left_out)] if self.newly_dropped else []


async def build_request(
    target: AnswerTarget,
    path: Sequence[Node],
    settings: ChannelSettings,
    template: Template,
    info: ModelInfo,
    count_tokens: Callable[[Prompt], Awaitable[int]],
    *,
    bot: str,
    channel: Channel,
    trim: int | None = None,
    system_trusted: bool = True,
    renderer: JinjaRenderer | None = None,
) -> BuiltRequest:
    """The request for an answer to `target`, with as much of the conversation as fits the model.

    `path`: what was said up to the message that is asked, that one last. `trim`: the node that prompts began at so far.
    `system_trusted`: the system text is the configuration's, not a person's. `renderer`: what runs Jinja templates.
    Raises: TemplateError, PromptTooLong.
    """
    sampling = sampling_of(settings, info)
    named = settings.speaker_names == "always" or (settings.speaker_names == "auto" and channel.kind == "group")
    spoken = [_turn(node, named) for node in path]
    system = _system(settings, trusted=system_trusted)
    renderer = renderer or shared_renderer()
    apart = template.jinja is not None  # such a template may take its time
    guard = partial(guard_for, template, info, renderer)
    resume: tuple[int, ...] = ()
    before = ""
    if target.unfinished is not None:

        def known() -> tuple[Guard, AnswerFormat]:
            return guard(), answer_of(template, info, renderer)

        resume, before = _unfinished(target.unfinished, *(await renderer.off_loop(known) if apart else known()), info)
    if before:
        spoken.append(Turn("assistant", before))

    rewritten = 0

    def rendered(turns: Sequence[Turn]) -> Request:
        nonlocal rewritten
        start = path[max(0, len(path) + bool(before) - sum(turn.role != "system" for turn in turns))]
        made = render(
            template,
            turns,
            info=info,
            variables=_variables(start, channel, bot),
            continue_last=bool(before),
            renderer=renderer,
        )
        rewritten = made.rewritten
        return Request(
            made.prompt,
            turns=tuple(turns),
            sampling=sampling,
            stop=made.stop,
            stop_tokens=made.stop_tokens,
            answer=made.answer,
            speakers=made.speakers if settings.end_at_speakers else (),
            show_thinking=settings.thinking != "hide",
            adapter=settings.adapter or "",
        )

    request: Request | None = None
    room = room_for(settings, info)

    async def count(turns: list[Turn]) -> int:
        nonlocal request
        # The one that is counted last is the one that fits. A long one is rendered while other chats go on.
        if apart:
            request = await renderer.off_loop(rendered, turns)
        elif sum(len(turn.text) for turn in turns) < LONG:
            request = rendered(turns)
        else:
            request = await asyncio.to_thread(rendered, turns)
        if (most := max_tokens(request.prompt) + len(resume)) <= room:
            return most  # the model need not be asked
        return await count_tokens(request.prompt) + len(resume)

    ids = [node.id for node in path]
    trimmed = ids.index(trim) if trim in ids else 0
    fitted = await fit(
        [*system, *spoken],
        count=count,
        context_length=info.context_length,
        reserve=reserve(sampling, info),
        start=trimmed + len(system) if trimmed else 0,
    )
    assert request is not None, "what fits was counted"
    start = max(0, fitted.start - len(system))
    if resume:
        longer = request.sampling.model_copy(update={"max_tokens": request.sampling.max_tokens + len(resume)})
        request = replace(request, resume=resume, sampling=longer)
    return BuiltRequest(
        request,
        left_out=fitted.dropped,
        newly_dropped=max(0, start - trimmed),
        before=before,
        trim=ids[start] if start else None,
        trim_moved=start != trimmed,
        clean_up=template.clean_up,
        rewritten=rewritten,
    )


def choose_template(templates: Mapping[str, Template], settings: ChannelSettings, info: ModelInfo) -> Template:
    """The template that is set, or else the one that fits best to what the model says about itself.

    Raises: TemplateError where the name is unknown, or the model says too little.
    """
    name = settings.template or suggest_preset(info)
    if name is None:
        raise TemplateError(
            f"the model {settings.model!r} does not say which template it was trained with; set `template` for it, "
            "or give it by -t in a terminal (`chatbridge templates` lists them)"
        )
    if name not in templates:
        raise TemplateError(f"there is no template {name!r}{did_you_mean(name, templates)}")
    return templates[name]


def sampling_of(settings: ChannelSettings, info: ModelInfo) -> Sampling:
    """The settings' sampling on top of what the model's makers recommend."""
    return settings.sampling if info.sampling is None else info.sampling.merged(settings.sampling)


def room_for(settings: ChannelSettings, info: ModelInfo) -> int:
    """How many tokens a prompt may have."""
    return info.context_length - reserve(sampling_of(settings, info), info)


def reserve(sampling: Sampling, info: ModelInfo) -> int:
    """Tokens of the context that the prompt must leave to the answer: its limit, but at most a quarter of all.

    An answer that needs more may have it, as far as the context goes.
    """
    return min(sampling.max_tokens, max(1, info.context_length // 4))


def _turn(node: Node, named: bool) -> Turn:
    # Who has no name at all is "?": without one, a line in another's name would read as theirs.
    name = (node.name or "?") if named and node.role == "user" else ""
    return Turn(node.role, node.text, name=name, trusted=node.trusted, reply=node.reply, speaker=node.author)


def _system(settings: ChannelSettings, *, trusted: bool) -> list[Turn]:
    if settings.system is None:
        return []
    return [Turn("system", settings.system.encode("utf-8", "replace").decode(), trusted=trusted)]


def _unfinished(node: Node, guard: Guard, answer: AnswerFormat, info: ModelInfo) -> tuple[tuple[int, ...], str]:
    """An unfinished answer: its ids where this model can go on behind them, or else its text."""
    reply = node.reply
    ids = ReplyIds.for_model(info, answer).of(reply, node.text, guard, line_start=True) if reply is not None else None
    return (ids, "") if ids else ((), node.text)


def _variables(first: Node, channel: Channel, bot: str) -> dict[str, str]:
    """Values for system texts, as they were at the first message of the prompt.

    A clock that moved on, or another speaker, would change the beginning of every prompt, and the model would have
    to read all of it anew each time.
    """
    when = datetime.fromtimestamp(first.created).astimezone()
    return {
        "user": first.name,
        "channel": channel.name or channel.id,
        "bot": bot,
        "date": f"{when:%Y-%m-%d}",
        "time": f"{when:%H:%M}",
    }
