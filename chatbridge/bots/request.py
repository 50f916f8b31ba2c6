"""From a conversation to the request that a backend gets: which turns, which template, which sampling.

Knows templates, settings and exact token counts; does not run the model and does not move the conversation but for
where its prompts begin.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from chatbridge.engine.backend import Backend, Request
from chatbridge.errors import TemplateError
from chatbridge.prompts.builtin import suggest_preset
from chatbridge.prompts.doctor import diagnose
from chatbridge.prompts.fitting import fit
from chatbridge.prompts.rendering import render
from chatbridge.prompts.template import Template
from chatbridge.sampling import Sampling
from chatbridge.suggest import did_you_mean
from chatbridge.texts import say
from chatbridge.types import Channel, ModelInfo, Turn

if TYPE_CHECKING:
    from chatbridge.bots.dialogue import Dialogue
    from chatbridge.bots.reply import Task
    from chatbridge.config.settings import ChannelSettings
    from chatbridge.store import Node

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Composed:
    """A request. `left_out`: turns of history that had to stay out of it, `newly` of them since the last answer.

    `before`: the text of an unfinished answer that the reply goes on with, where its ids can't be used.
    """

    request: Request
    left_out: int = 0
    newly: int = 0
    before: str = ""

    def notices(self, language: str) -> list[str]:
        """What the person should be told before the answer."""
        return [say(language, "left_out", count=self.left_out)] if self.newly else []


async def compose(dialogue: Dialogue, task: Task, settings: ChannelSettings, backend: Backend) -> Composed:
    """The request for an answer to `task`, with as much of the conversation as fits the model.

    Raises: TemplateError, PromptTooLong.
    """
    conversation = await dialogue.store.get(task.asked.conversation)  # whatever has become current meanwhile
    info = backend.info
    sampling = (info.sampling or Sampling()).merged(settings.sampling)
    template = choose_template(dialogue.bot.templates, settings, info)
    _look_over(dialogue.bot.bridge.looked_over, template, info)

    nodes = await dialogue.store.path(conversation.id, task.asked.id) if settings.history else [task.asked]
    named = settings.speaker_names == "always" or (
        settings.speaker_names == "auto" and dialogue.channel.kind == "group"
    )
    spoken = [_turn(node, named) for node in nodes]
    # What a person set by /system is theirs; what bots.yaml says is ours.
    system = _system(settings, trusted="system" not in conversation.overrides)
    resume, before = _unfinished(task, info)
    if before:
        spoken.append(Turn("assistant", before))

    def rendered(turns: Sequence[Turn]) -> Request:
        start = nodes[max(0, len(nodes) + bool(before) - sum(turn.role != "system" for turn in turns))]
        variables = _variables(start, dialogue.channel, dialogue.bot.name)
        made = render(template, turns, info=info, variables=variables, continue_last=bool(before))
        return Request(
            made.prompt,
            turns=tuple(turns),
            sampling=sampling,
            stop=made.stop,
            stop_tokens=made.stop_tokens,
            show_thinking=settings.thinking == "show",
            adapter=settings.adapter or "",
        )

    request = Request(())

    async def count(turns: list[Turn]) -> int:
        nonlocal request
        request = rendered(turns)  # the one that is counted last is the one that fits
        return await backend.count_tokens(request.prompt) + len(resume)

    ids = [node.id for node in nodes]
    trimmed = ids.index(conversation.trim) if conversation.trim in ids else 0
    fitted = await fit(
        [*system, *spoken],
        count=count,
        context_length=info.context_length,
        reserve=reserve(sampling, info),
        start=trimmed + len(system) if trimmed else 0,
    )
    start = max(0, fitted.start - len(system))
    if start != trimmed and settings.history:
        await dialogue.store.set_trim(conversation.id, ids[start] if start else None)
        log.info("conversation %d begins at message %d of %d from now on", conversation.id, start, len(ids))
    if resume:
        longer = request.sampling.model_copy(update={"max_tokens": request.sampling.max_tokens + len(resume)})
        request = replace(request, resume=resume, sampling=longer)
    return Composed(request, left_out=fitted.dropped, newly=max(0, start - trimmed), before=before)


def choose_template(templates: Mapping[str, Template], settings: ChannelSettings, info: ModelInfo) -> Template:
    """The template that is set, or else the one that fits best to what the model says about itself.

    Raises: TemplateError where the name is unknown, or the model says too little.
    """
    name = settings.template or suggest_preset(info)
    if name is None:
        raise TemplateError(
            f"the model {settings.model!r} does not say which template it was trained with; set `template` for it "
            "(`chatbridge templates` lists them)"
        )
    if name not in templates:
        raise TemplateError(f"there is no template {name!r}{did_you_mean(name, templates)}")
    return templates[name]


def reserve(sampling: Sampling, info: ModelInfo) -> int:
    """Tokens of the context that the prompt must leave to the answer: its limit, but at most a quarter of all.

    An answer that needs more may have it, as far as the context goes.
    """
    return min(sampling.max_tokens, max(1, info.context_length // 4))


def _turn(node: Node, named: bool) -> Turn:
    name = node.name if named and node.role == "user" else ""
    return Turn(node.role, node.text, name=name, trusted=node.trusted, reply=node.reply)


def _system(settings: ChannelSettings, *, trusted: bool) -> list[Turn]:
    if settings.system is None:
        return []
    return [Turn("system", settings.system.encode("utf-8", "replace").decode(), trusted=trusted)]


def _unfinished(task: Task, info: ModelInfo) -> tuple[tuple[int, ...], str]:
    """An unfinished answer: its ids where this model can go on behind them, or else its text."""
    if task.unfinished is None:
        return (), ""
    reply = task.unfinished.reply
    if reply is not None and reply.tokens and reply.vocabulary == info.vocabulary:
        return reply.tokens, ""
    return (), task.unfinished.text


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


def _look_over(done: set[tuple[str, str]], template: Template, info: ModelInfo) -> None:
    """Log what is wrong between a template and a model, once for each pair."""
    pair = (template.name, info.fingerprint)
    if pair in done:
        return
    done.add(pair)
    for finding in diagnose(template, info):
        level = logging.ERROR if finding.severity == "error" else logging.WARNING
        log.log(level, "model %s, template %s: %s; %s", info.name, template.name, finding.message, finding.remedy)
