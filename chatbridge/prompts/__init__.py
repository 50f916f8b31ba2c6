"""Prompts: templates, presets, segments, and fitting a conversation to the context."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatbridge.prompts.builtin import presets as presets
    from chatbridge.prompts.doctor import Finding as Finding
    from chatbridge.prompts.doctor import diagnose as diagnose
    from chatbridge.prompts.doctor import suggest_preset as suggest_preset
    from chatbridge.prompts.fitting import Fitted as Fitted
    from chatbridge.prompts.fitting import fit as fit
    from chatbridge.prompts.guard import neutralise as neutralise
    from chatbridge.prompts.rendering import Rendered as Rendered
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
    "doctor": ("Finding", "diagnose", "suggest_preset"),
    "fitting": ("Fitted", "fit"),
    "guard": ("neutralise",),
    "builtin": ("presets",),
    "rendering": ("Rendered", "render"),
    "segments": ("Prompt", "Special", "Text", "Tokenizer", "Tokens"),
    "template": ("Template", "resolve"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'chatbridge.prompts' has no public name {name!r}")
    return getattr(import_module(f"chatbridge.prompts.{_MODULE_OF[name]}"), name)
