"""How a chat template is told of a conversation: the values that it gets, in the one of several forms that it takes.

Templates of one time and place agree on these forms and others do not: contents are texts or lists of parts, and where
there are no tools, `tools` is null, empty, or not there. Knows no conversation, and what its contents are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from chatbridge.errors import TemplateError
from chatbridge.suggest import did_you_mean

if TYPE_CHECKING:
    from chatbridge.prompts.jinja_renderer import JinjaRenderer


class OptionsError(TemplateError):
    """The options are wrong, and the template may be right."""


Options = Mapping[str, Any]
"""Values of a template's own variables, by their names; what JSON can say."""

GIVEN = ("messages", "add_generation_prompt", "bos_token", "eos_token", "tools", "documents")
"""Variables whose values are not for settings."""


@dataclass(frozen=True, slots=True)
class Form:
    """`parts`: contents are lists of parts, as of models that see images. `nothing`: what stands for no tools."""

    parts: bool = False
    nothing: Literal["null", "absent", "empty"] = "null"

    def values(
        self, messages: Sequence[Mapping[str, str]], *, generate: bool, bos: str, eos: str, options: Options
    ) -> dict[str, Any]:
        """What the template gets. `messages`: role, content and more. `generate`: the prompt opens an answer."""
        told = [
            {**message, "content": [{"type": "text", "text": message["content"]}] if self.parts else message["content"]}
            for message in messages
        ]
        values = {"messages": told, "add_generation_prompt": generate, "bos_token": bos, "eos_token": eos}
        if self.nothing != "absent":
            values |= dict.fromkeys(("tools", "documents"), [] if self.nothing == "empty" else None)
        return {**options, **values}


FORMS = tuple(Form(parts, nothing) for parts in (False, True) for nothing in ("null", "absent", "empty"))
"""The first is Hugging Face's; the others are for templates that it breaks."""


def check_options(options: Options, source: str, renderer: JinjaRenderer) -> None:
    """Raise OptionsError for an option that the template does not look up."""
    if not options:
        return
    known = sorted(renderer.variables(source) - set(GIVEN))
    for name in options:
        if name not in known:
            have = did_you_mean(name, known) or f" (it has: {', '.join(known) or 'none'})"
            raise OptionsError(f"the chat template has no variable {name!r} for `template_options`{have}")
