"""`chatbridge model …`: one file for each command, imported when it is used. Knows their names alone."""

from __future__ import annotations

import click

from chatbridge.cli.lazy_group import LazyGroup

COMMANDS = {
    "convert": "Make another form of a model: GGUF, Hugging Face's, Meta's, int4, …",
    "decrypt": "Decrypt weights that BELLE published as XOR with the original LLaMA.",
    "inspect": "Tell what lies at a path, from headers and shapes alone.",
    "list": "List models that can be fetched by name, and those that were.",
    "merge": "Merge LoRA adapters into their model, vocabularies and all.",
    "plan": "Tell whether a model fits, where it goes, and what would make it fit.",
    "pull": "Fetch a model: by a name of the list, from Hugging Face, or by an address.",
    "quantize": "Make a GGUF file smaller by llama.cpp's quantiser, and compare both.",
}


class _Group(LazyGroup):
    package = "chatbridge.cli.model"
    own = COMMANDS


@click.group("model", cls=_Group)
def command() -> None:
    """Fetch, look at and convert model files: what they are, what is wrong, what runs them."""
