"""Looks a template over for the model it is used with, and says in words what is wrong and which preset fits.

Knows what models say about themselves, no tokenizer and no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from chatbridge.errors import TemplateError
from chatbridge.prompts.builtin import for_model, nearest_preset, presets, suggest_preset
from chatbridge.prompts.guard import gaps_of, guard_of, unguarded
from chatbridge.prompts.rendered import RenderedPrompt
from chatbridge.prompts.rendering import render
from chatbridge.prompts.segments import Prompt, Special, Text
from chatbridge.prompts.telling import OptionsError
from chatbridge.prompts.template import FORMATS, Template
from chatbridge.types import ModelInfo, Turn

if TYPE_CHECKING:
    from chatbridge.prompts.jinja_renderer import JinjaRenderer

SAMPLE = (
    Turn("system", "Be brief.", trusted=True),
    Turn("user", "Hello!"),
    Turn("assistant", "Hi."),
    Turn("user", "How are you?"),
)
"""A conversation with every role, to look at a template by."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a template and a model.

    An `error` makes answers fail, a `warning` makes them worse, a `note` is what the template costs by itself.
    """

    severity: Literal["error", "warning", "note"]
    message: str
    remedy: str


def diagnose(
    template: Template,
    info: ModelInfo,
    renderer: JinjaRenderer | None = None,
    *,
    options: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Everything that is wrong between a template and a model; nothing where they fit.

    `renderer`, `options`: see `render`.
    """
    fits = suggest_preset(info)
    better = nearest_preset(info) if fits == template.name else fits
    remedy = f"set template: {better}" if better else "choose or write a template that fits"
    try:
        rendered = render(template, SAMPLE, info=info, renderer=renderer, options=options)
    except OptionsError as error:
        return [Finding("error", str(error), "correct `template_options`")]
    except TemplateError as error:
        return [Finding("error", f"the template {template.name!r} can't be used with {info.name!r}: {error}", remedy)]
    return [
        *(Finding("warning", *unguarded(gap).rsplit("; ", 1)) for gap in gaps_of(template)),
        *_beginning(template, info, rendered.prompt),
        *_controls(info, rendered, remedy),
        *_plain_controls(template, info, rendered.prompt),
        *_endings(info, rendered),
        *_other_template(template, info, rendered.prompt, fits, renderer),
        *_read_again(template, info, renderer, options),
    ]


def _beginning(template: Template, info: ModelInfo, prompt: Prompt) -> Iterator[Finding]:
    for first, second in pairwise(prompt):
        if first == second == Special("bos"):
            yield Finding("error", "a prompt has two BOS in a row", "leave {bos} out of `begin` or of `user`")
    if info.added_bos is not None and prompt[:1] != (Special("bos"),) and _published(template) is None:
        yield Finding("warning", "prompts do not begin with the BOS that the model wants", 'set begin: "{bos}"')


def _controls(info: ModelInfo, rendered: RenderedPrompt, remedy: str) -> Iterator[Finding]:
    used = [segment.token for segment in rendered.prompt if isinstance(segment, Special)]
    for token in dict.fromkeys((*used, *rendered.stop_tokens)):
        if token == "eos" and not info.eos:
            yield Finding("error", "the template writes {eos}, and the model names no end token", remedy)
        elif token not in ("", "bos", "eos") and token not in info.specials:
            yield Finding("error", f"the model has no control token {token!r}, which the template uses", remedy)


def _plain_controls(template: Template, info: ModelInfo, prompt: Prompt) -> Iterator[Finding]:
    ours = [part.text for part in prompt if isinstance(part, Text) and part.origin == "template"]
    literal = "\0".join([*ours, template.system])
    for token, number in info.specials.items():
        if token and token in literal:
            better = "{bos}" if number == info.bos else "{eos}" if number in info.eos[:1] else f"{{token:{token}}}"
            yield Finding(
                "warning",
                f"the template writes {token!r} as plain text, and the model has it as a control token",
                f"write {better}",
            )


def _endings(info: ModelInfo, rendered: RenderedPrompt) -> Iterator[Finding]:
    if not info.eos and not rendered.stop and not rendered.stop_tokens:
        yield Finding("warning", "nothing ends an answer but its greatest length", "set `stop` or `stop_tokens`")
    for text in rendered.stop:
        if text in info.specials:
            yield Finding(
                "warning",
                f"the stop string {text!r} is a control token, which has no text",
                "put it in `stop_tokens`",
            )


def _other_template(
    template: Template, info: ModelInfo, prompt: Prompt, fits: str | None, renderer: JinjaRenderer | None
) -> Iterator[Finding]:
    if fits is None or (template.jinja is not None and fits != "model"):
        return
    known = presets()[fits]
    if fits == "model":
        try:
            own = render(known, SAMPLE, info=info, renderer=renderer).prompt
        except TemplateError:
            return  # what the model brings is of no use: any template is better
        if _shape(own, info) != _shape(prompt, info):
            message = f"the model's own chat template writes prompts otherwise than {template.name!r} does"
            yield Finding("warning", message, "set template: model, unless the other form is meant")
        return
    used = _published(template)
    if used is not None:
        # ChatRWKV's forms were all trained; which of them is used is a matter of taste.
        differs = used != fits and not (used.startswith("rwkv") and fits.startswith("rwkv"))
    else:
        differs = guard_of(known) != guard_of(template) or _tokens(known, info) != _tokens(template, info)
    if differs:
        message = f"the model looks like one for the template {fits!r}, and {template.name!r} is used"
        yield Finding("warning", message, f"set template: {fits}, unless the other form is meant")


def _read_again(
    template: Template, info: ModelInfo, renderer: JinjaRenderer | None, options: Mapping[str, Any] | None
) -> Iterator[Finding]:
    template = for_model(template, info)
    if template.jinja is None:
        return
    from chatbridge.prompts.jinja import probed, source_of

    if probed(source_of(template, info), info, renderer, options).breaks:
        yield Finding(
            "note",
            "the chat template writes an older answer otherwise than it was sampled, as without its thought: each "
            "message reads the answer before it again",
            "it is the template's own way, and nothing is wrong",
        )


def _shape(prompt: Prompt, info: ModelInfo) -> list[str]:
    """The prompt as one row of texts and token ids, however its control tokens are named."""
    ids = {"bos": info.bos, "eos": info.eos[0] if info.eos else None}
    row: list[str] = []
    for part in prompt:
        if isinstance(part, Special):
            row.append(f"#{ids.get(part.token, info.specials.get(part.token))}")
        elif isinstance(part, Text) and row and not row[-1].startswith("#"):
            row[-1] += part.text
        elif isinstance(part, Text):
            row.append(part.text)
    return row


def _tokens(template: Template, info: ModelInfo) -> set[str]:
    prompt = render(template, SAMPLE, info=info).prompt
    return {part.token for part in prompt if isinstance(part, Special)} - {"bos", "eos", ""}


def _published(template: Template) -> str | None:
    """The preset that writes everything in the same formats; such a one may rightly want no BOS."""
    alike = (
        name
        for name, preset in presets().items()
        if all(getattr(preset, field) == getattr(template, field) for field in FORMATS)
    )
    return next(alike, None)
