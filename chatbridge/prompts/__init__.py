"""Prompts: templates, presets, segments, and fitting a conversation to the context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatbridge._lazy import lazy_names

if TYPE_CHECKING:
    from chatbridge.prompts.builtin import presets as presets
    from chatbridge.prompts.builtin import suggest_preset as suggest_preset
    from chatbridge.prompts.doctor import Finding as Finding
    from chatbridge.prompts.doctor import diagnose as diagnose
    from chatbridge.prompts.fitting import Fitted as Fitted
    from chatbridge.prompts.fitting import fit as fit
    from chatbridge.prompts.guard import neutralise as neutralise
    from chatbridge.prompts.marks import is_mark as is_mark
    from chatbridge.prompts.rendered import RenderedPrompt as RenderedPrompt
    from chatbridge.prompts.rendering import render as render
    from chatbridge.prompts.segments import Prompt as Prompt
    from chatbridge.prompts.segments import Special as Special
    from chatbridge.prompts.segments import Text as Text
    from chatbridge.prompts.segments import Tokenizer as Tokenizer
    from chatbridge.prompts.segments import Tokens as Tokens
    from chatbridge.prompts.template import Template as Template
    from chatbridge.prompts.template import resolve as resolve

# Loaded on first use: the engine's contract needs the segments alone, without pydantic and Jinja.
# No module is called as a public name is: importing it would put the module in the name's place.
_HOME = {
    "doctor": ("Finding", "diagnose"),
    "fitting": ("Fitted", "fit"),
    "guard": ("neutralise",),
    "builtin": ("presets", "suggest_preset"),
    "marks": ("is_mark",),
    "rendered": ("RenderedPrompt",),
    "rendering": ("render",),
    "segments": ("Prompt", "Special", "Text", "Tokenizer", "Tokens"),
    "template": ("Template", "resolve"),
}
__all__, __getattr__ = lazy_names(__name__, _HOME)  # pyright: ignore[reportUnsupportedDunderAll]
