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
    """How a template is told of conversations. `default_system`: characters that a system text takes the place of."""

    form: Form
    default_system: int


_TOLD: ByteLru[tuple[str, str], Told] = ByteLru(4 << 20, lambda key, _: weight(key), largest=1 / 2)


def told_of(source: str, info: ModelInfo, renderer: JinjaRenderer, options: Options) -> Told:
    """The first form that the template takes, found by samples; Hugging Face's where it takes none."""

    def found() -> Told:
        for roles, form in product(_SAMPLES, FORMS):
            chat = Chat(source, info, renderer, form, options)
            if _sample(chat, roles) is not None:
                return Told(form, _default_system(chat))
        return Told(FORMS[0], 0)

    return _TOLD.get((source, json.dumps(options, sort_keys=True)), found)


_SAMPLES: tuple[tuple[Role, ...], ...] = (
    ("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",),
)  # fmt: skip


def _sample(chat: Chat, roles: Sequence[Role]) -> list[Part] | None:
    """What a template writes for roles; None where it can't."""
    try:
        return chat.write([Message(role, (at,)) for at, role in enumerate(roles)], generate=True)
    except TemplateLimitError:
        raise
    except TemplateError:
        return None


def _default_system(chat: Chat) -> int:
    """How many characters a template writes only where it is given no system text."""
    alone, both = _sample(chat, ("user",)), _sample(chat, ("system", "user"))
    if alone is None or both is None:
        return 0
    (own, _), (before, between, _) = _own_texts(alone), _own_texts(both)
    own = own[_alike(own, before) :]
    return len(own[: len(own) - _alike(own[::-1], between[::-1])].strip())


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
