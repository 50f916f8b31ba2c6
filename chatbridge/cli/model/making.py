"""What all commands that make a model share: how they are written down, and what is told where they are stopped.

Knows no form of models.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatbridge.cli.output import echo

if TYPE_CHECKING:
    from chatbridge.model_files.description import ModelDescription


def named_place(context: click.Context | None, option: click.Parameter | None, name: str | None) -> str | None:
    """What may be a path or another name: an empty word, as of a variable that is not set, is none, and a path of it
    would be the folder at hand."""
    if name == "":
        words = "there is no path or name here, only an empty word; is a variable not set?"
        raise click.BadParameter(words, context, option)
    return name


class _Place(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        named_place(ctx, param, str(value))
        return super().convert(value, param, ctx)


PLACE = _Place(path_type=Path)
"""What all commands take for a path."""


def _known(context: click.Context, option: click.Parameter, name: str) -> str:
    from chatbridge.prompts.builtin import presets
    from chatbridge.suggest import did_you_mean

    if name and name not in presets():
        hint = did_you_mean(name, presets()) or "; `chatbridge templates` lists them"
        raise click.BadParameter(f"there is no template {name!r}{hint}")
    return name


template_option = click.option(
    "--template", metavar="NAME", default="", callback=_known,
    help="The prompt template that the result is talked to by; unless given, what the source says.",
)  # fmt: skip


def carried_template(found: ModelDescription, given: str = "") -> str:
    """The preset that is written down with what is made of a model; "" where its own chat template says it.

    Raises ModelLoadError for a chat template that is asked for and not there.
    """
    if given == "model" and not found.chat_template:
        from chatbridge.errors import ModelLoadError

        raise ModelLoadError(f"{found.path}: it has no chat template of its own; give another --template")
    return given or ("" if found.preset == "model" else found.preset)


def next_step(made: Path, name: str = "", backend: str = "") -> str:
    """What to do with it: talk to what runs by itself, once its backend is installed, and look at anything else.

    `name`: what it is called for `repl -m`, unless by its path; `backend`: what runs it by that name.
    """
    from chatbridge.model_files.inspect import inspect_model
    from chatbridge.model_files.running import chosen_backend
    from chatbridge.plugins.manager import Plugins
    from chatbridge.plugins.packages import install_command

    installed = Plugins().backends
    runs = {one.name: one.runs for one in installed.values() if one.runs}
    found, look = inspect_model(made, runs), f"Look at it: chatbridge model inspect {word(made)}"
    if lacking := lacks(found):
        return f"{lacking} {look}"
    if not found.sound or not found.backends or found.layout in ("peft", "gguf-adapter", "ptuning"):
        return look
    backend = backend or chosen_backend(found, installed)
    install = "" if backend in installed else install_command("backend", backend)
    after = f", after {install}" if install else ""
    talk = f"chatbridge repl -m {word(Path(name)) if name else word(made)}"
    if not found.preset and not name:
        listed = "`chatbridge templates` lists them"
        return f"Talk to it by the template that it was trained with ({listed}){after}: {talk} -t NAME"
    return f"Talk to it{after}: {talk}"


def lacks(found: ModelDescription) -> str:
    """What is wanted yet before it can be talked to, in a sentence; "" for nothing."""
    from chatbridge.model_tools.planning.machine import this_machine

    if found.layout in _TOKENIZERS and not (found.tokens or found.tokenizer):
        return f"To be talked to it needs its tokenizer, which is not beside it: {_TOKENIZERS[found.layout]}."
    if needs := found.details.get("needs"):
        elsewhere = any(name in needs and sys.platform != system for name, system in _SYSTEMS.items())
        if elsewhere or ("cuda" in needs and not this_machine().cards):
            return f"It needs {needs}; none is seen on this machine."
    return ""


_SYSTEMS = {"mps": "darwin", "dml": "win32"}
"""Where cards are that only one system has, by the word for them in strategies."""

_TOKENIZERS = {
    "glm-130b": "put ice_text.model into the folder; the package icetk brings it",
    "chatglm": "put ice_text.model into the folder, from THUDM/chatglm-6b on Hugging Face",
    "huggingface": "put tokenizer.json or tokenizer.model into the folder, from where the model was published",
    "rwkv": "put 20B_tokenizer.json of BlinkDL/ChatRWKV beside it for a Raven or Pile model, or name another file by "
    "tokenizer: in bots.yaml",
}
"""What the tokenizer's file is called and where it comes from, by the form of a model."""


def command_line() -> str:
    """The command as it was given, for the report."""
    return shlex.join(("chatbridge", *sys.argv[1:]))


def word(path: Path) -> str:
    """A path as a word of a command that can be copied: none is taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


@contextmanager
def stoppable(output: Path) -> Iterator[None]:
    """On Ctrl-C say what is left, and what to do with it, and end with 130."""
    from chatbridge.model_tools.output import partial_name

    try:
        yield
    except KeyboardInterrupt:
        partial = partial_name(output)
        left = "nothing is left of it"
        if partial.exists():
            left = f"what is done is in {partial}: the same command goes on with it; delete it if you don't want to"
        echo(f"stopped; {left}", err=True)
        sys.exit(130)
