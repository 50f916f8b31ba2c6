"""Finds out by samples how a chat template wants to be told of conversations. Knows no conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product, takewhile

from chatbridge.errors import TemplateError
from chatbridge.prompts.cache import ByteLru, weight
from chatbridge.prompts.jinja_chat import Chat, Content, Message, Part
from chatbridge.prompts.jinja_renderer import JinjaRenderer, TemplateLimitError
from chatbridge.prompts.telling import FORMS, Form, Options
from chatbridge.types import ModelInfo, Role


@dataclass(frozen=True, slots=True)
class Told:
    """How a template is told of conversations, and what it says before them by itself.

    `default`: characters of its own system text, which is there where it is given none; `can_omit`: an empty one leaves
    it out. `always`: characters that it writes in any case before the first message, beside the system text.
    """

    form: Form
    default: int = 0
    can_omit: bool = False
    always: int = 0


_TOLD: ByteLru[tuple[str, str], Told] = ByteLru(4 << 20, lambda key, _: weight(key), largest=1 / 2)


def told_of(source: str, info: ModelInfo, renderer: JinjaRenderer, options: Options) -> Told:
    """With the first form that the template takes, found by samples; Hugging Face's where it takes none."""

    def found() -> Told:
        for roles, form in product(_SAMPLES, FORMS):
            chat = Chat(source, info, renderer, form, options)
            if _sample(chat, roles) is not None:
                return _told(chat)
        return Told(FORMS[0])

    return _TOLD.get((source, json.dumps(options, sort_keys=True)), found)


_SAMPLES: tuple[tuple[Role, ...], ...] = (
    ("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",),
)  # fmt: skip


def _sample(chat: Chat, roles: Sequence[Role], *, empty: bool = False) -> list[Part] | None:
    """What a template writes for roles, None where it can't. `empty`: the first one's content is."""
    try:
        messages = [Message(role, () if empty and not at else (at,)) for at, role in enumerate(roles)]
        return chat.write(messages, generate=True)
    except TemplateLimitError:
        raise
    except TemplateError:
        return None


def _told(chat: Chat) -> Told:
    alone, both = _sample(chat, ("user",)), _sample(chat, ("system", "user"))
    if alone is None or both is None:
        return Told(chat.form, always=len(_own_texts(alone)[0]) if alone is not None else 0)
    (own, _), (before, between, _) = _own_texts(alone), _own_texts(both)
    default = own[_alike(own, before) :]
    default = default[: len(default) - _alike(default[::-1], between[::-1])].strip()
    empty = _sample(chat, ("system", "user"), empty=True)
    can_omit = bool(default) and empty is not None and default not in _own_texts(empty)[0]
    return Told(chat.form, len(default), can_omit, len(before) + len(between))


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _own_texts(parts: Sequence[Part]) -> list[str]:
    """The template's own text before, between and behind contents."""
    texts = [""]
    for part in parts:
        if isinstance(part, Content):
            texts.append("")
        else:
            texts[-1] += part if isinstance(part, str) else part.token
    return texts
