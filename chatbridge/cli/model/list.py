"""`chatbridge model list`: the names of the catalogue, with size, licence, template, and whether each was fetched."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal
from unicodedata import east_asian_width

import click

from chatbridge.cli.output import echo, echo_json, joined, styled

_WORDS = {
    "en": {
        "about": "about ",
        "fetched": "fetched",
        "by request": "by request",
        "template": "template",
        "homeless": "there is no home folder to keep models in; CHATBRIDGE_MODELS may name one",
        "where": "fetched ones are in {}",
        "besides": ", and besides:",
    },
    "zh": {
        "about": "约 ",
        "fetched": "已下载",
        "by request": "需申请",
        "template": "模板",
        "homeless": "没有可以存放模型的主目录；可以用 CHATBRIDGE_MODELS 指定一个",
        "where": "已下载的模型在 {}",
        "besides": "，此外还有：",
    },
}


def _filled(text: str, width: int) -> str:
    """The text with blanks behind it, up to `width` columns of a terminal, of which a Chinese character takes two."""
    return text + " " * (width - sum(2 if east_asian_width(sign) in "WF" else 1 for sign in text))


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of what is told of each."
)
def command(as_json: bool, language: Literal["en", "zh"]) -> None:
    """List models that can be fetched by name, and those that were fetched.

    `chatbridge model pull NAME` fetches one, `chatbridge repl -m NAME` talks to it, and in bots.yaml it is `models:
    {mine: {catalogue: NAME}}`. Sizes are of what is fetched.
    """
    from chatbridge.model_tools.fetching.catalogue import catalogue
    from chatbridge.model_tools.fetching.pull import fetched_folders
    from chatbridge.operations.folders import models_folder

    words = _WORDS[language]
    models = models_folder()
    entries = catalogue()
    here = {name: one.path(models) if models else None for name, one in entries.items()}
    if as_json:
        echo_json(
            [{**asdict(one), "path": str(path) if (path := here[name]) else None} for name, one in entries.items()]
        )
        return
    for name, one in entries.items():
        size = f"{'' if one.exact else words['about']}{one.size / 2**30:.1f} GiB"
        state = words["fetched"] if here[name] else words["by request"] if one.request else size
        about = f"{_filled(state, 15)}{one.licence}; {one.backend}, {words['template']} {one.template}"
        echo(joined(styled(f"{name:<20}", bold=True), about))
        echo(f"{'':<20}{one.summary[language]}")
    if models is None:
        echo(f"\n{words['homeless']}")
        return
    others = [folder for folder in fetched_folders(models) if folder.name not in entries]
    echo(f"\n{words['where'].format(models)}" + (words["besides"] if others else ""))
    for folder in others:
        echo(f"  {folder.name}")
