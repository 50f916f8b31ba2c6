"""What a prompt template is: a value that bots.yaml, the presets and plugins all write in the same words.

Checks each format by itself, so that the configuration reader can point at the line. Renders nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from chatbridge.errors import TemplateError
from chatbridge.prompts import formats
from chatbridge.suggest import did_you_mean

FORMATS = ("begin", "system_turn", "user", "single", "assistant", "generate", "lead")
OWN = "model"
"""The value of `jinja` that stands for the model's own chat template."""


class Template(BaseModel):
    """How a conversation is written for a model.

    A prompt is `begin`, the system text in `system_turn`, each turn in its format, and `assistant` up to its
    `{text}`, where the model goes on. Text that people wrote goes only where `{text}` and `{name}` are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="", description="Set from the key in bots.yaml; plugins give it themselves.")
    extends: str | None = Field(default=None, description="The template that this one changes.")
    summary: str = Field(default="", description="One line for `chatbridge templates`.")
    system: str = Field(
        default="", description="The system text where none is set; {user} {channel} {bot} {date} {time} are filled in."
    )
    begin: str = Field(default="{bos}", description="What every prompt begins with.")
    system_turn: str = Field(default="{text}\n\n", description="How the system text is written, if there is any.")
    user: str = Field(
        default="", description="How a person's turn is written; {system} puts the system text into the first one."
    )
    assistant: str = Field(default="", description="How an answer is written; up to {text} it opens the new answer.")
    single: str | None = Field(
        default=None, description="The whole of a conversation that is one message; no answer is opened after it."
    )
    generate: str = Field(default="", description="Written before the new answer only, never before earlier ones.")
    lead: str = Field(default="", description="What the model itself writes before its first word, as a blank.")
    name_format: str = Field(default="{name}: {text}", description="How a speaker's name is put before a message.")
    blanks: Literal["keep", "strip", "collapse"] = Field(
        default="keep",
        description="keep: text as it is; strip: no blanks around it; collapse: also no empty lines in it.",
    )
    masks: tuple[str, ...] = Field(default=(), description="Control tokens that trusted text may contain, as [MASK].")
    generate_mask_last: str = Field(
        default="", description="In the place of `generate` where the text ends with a mask."
    )
    generate_mask_inside: str = Field(default="", description="In the place of `generate` where a mask is inside.")
    stop: tuple[str, ...] = Field(default=(), description="Texts that end an answer.")
    stop_tokens: tuple[str, ...] = Field(default=(), description="Control tokens that end an answer, too.")
    clean_up: Literal["", "chatglm"] = Field(
        default="",
        description="What is put right in answers before they are shown. chatglm: full-width signs beside Chinese "
        "characters, and the mark for the time of its training, as ChatGLM-6B's own chat() does.",
    )
    headers: tuple[str, ...] = Field(default=(), description="More role headers that people can't write.")
    jinja: str | None = Field(
        default=None, description="A Jinja chat template in the place of the formats; `model` for the model's own."
    )

    @field_validator("user", "assistant", "single", "system_turn", "name_format")
    @classmethod
    def _has_text(cls, value: str | None, info: ValidationInfo) -> str | None:
        field = info.field_name or ""
        if value is not None:
            formats.check(value, needs=_NEEDS.get(field, ("text",)), allows=_ALLOWS.get(field, ()))
        parts = formats.parse(value or "")
        if field == "name_format" and any(isinstance(part, formats.Control) for part in parts):
            raise ValueError("a control token can't stand beside a speaker's name")
        return value

    @field_validator("begin", "generate", "generate_mask_last", "generate_mask_inside")
    @classmethod
    def _has_no_text(cls, value: str) -> str:
        formats.check(value)
        return value

    @field_validator("stop", "stop_tokens", "masks", "headers")
    @classmethod
    def _has_no_empty_ones(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not text for text in value):
            raise ValueError("an empty text would match everywhere")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.jinja is not None:
            if mixed := sorted(self.model_fields_set & {"begin", "system_turn", "user", "assistant", "single"}):
                raise ValueError(f"`jinja` takes the place of {', '.join(mixed)}; leave one or the other out")
        elif self.extends is None:
            for field in ("user", "assistant"):
                if not getattr(self, field):
                    raise ValueError(f"`{field}` is missing; write it, or name a template in `extends`")
        return self


_NEEDS = {"name_format": ("name", "text")}
_ALLOWS = {"user": ("round", "system"), "single": ("system",), "assistant": ("round",)}


def resolve(name: str, spec: Template, known: Mapping[str, Template]) -> Template:
    """The template `name` with what it inherits filled in.

    `known`: presets, plugins' and own templates by name; an entry may extend another.
    Raises: TemplateError for a template that `extends` an unknown one, or itself.
    """
    return _resolve(name, spec, known, (name,))


def _resolve(name: str, spec: Template, known: Mapping[str, Template], chain: tuple[str, ...]) -> Template:
    if spec.extends is None:
        return spec.model_copy(update={"name": name})
    base = known.get(spec.extends)
    if base is None:
        have = did_you_mean(spec.extends, known) or f" (known: {', '.join(sorted(known))})"
        raise TemplateError(f"template {name!r} extends {spec.extends!r}, which does not exist{have}")
    # A template of one's own may carry a preset's name and extend just that preset; anything else is a circle.
    if base is spec or (spec.extends in chain[:-1]):
        raise TemplateError(f"template {name!r} extends itself: {' > '.join((*chain, spec.extends))}")
    base = _resolve(spec.extends, base, known, (*chain, spec.extends))
    own = {field: getattr(spec, field) for field in spec.model_fields_set} | {"name": name, "extends": None}
    inherited = {field: getattr(base, field) for field in base.model_fields_set}
    if spec.jinja is not None:
        inherited = {field: value for field, value in inherited.items() if field not in FORMATS}
    elif own.keys() & {"user", "assistant"}:
        inherited.pop("jinja", None)
    return Template.model_validate(inherited | own)
