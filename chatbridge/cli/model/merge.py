"""`chatbridge model merge`: shows how far the work is, and what people should know of the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatbridge.cli.model.making import PLACE, command_line, next_step, stoppable, template_option
from chatbridge.cli.output import echo, styled

if TYPE_CHECKING:
    from chatbridge.model_tools.merging.model_folders import FolderForm


@click.command("merge")
@click.argument("base", type=PLACE)
@click.argument("adapters", type=PLACE, nargs=-1, required=True, metavar="ADAPTER…")
@click.option("-o", "--output", type=PLACE, required=True, help="The folder to make.")
@click.option(
    "-t", "--to", "form", type=click.Choice(("hf", "meta")), default="hf", show_default=True,
    help="Hugging Face's form, or Meta's (consolidated.*.pth) of a LLaMA.",
)  # fmt: skip
@click.option(
    "--parts", type=click.IntRange(1, 64), help="Parts of Meta's form; as many as Meta published unless given."
)
@click.option(
    "--dtype", type=click.Choice(("float16", "bfloat16", "float32")), help="Of the weights; the base's unless given."
)
@click.option(
    "--check/--no-check", default=True, show_default=True,
    help="Compute the perplexity of three sentences before and after, which tells a wrong base.",
)  # fmt: skip
@template_option
def command(
    base: Path,
    adapters: tuple[Path, ...],
    output: Path,
    form: FolderForm,
    parts: int | None,
    dtype: str | None,
    check: bool,
    template: str,
) -> None:
    """Merge each ADAPTER (PEFT's LoRA) into the model at BASE, a folder in Hugging Face's form or Meta's.

    Adapters that bring a vocabulary, as Chinese-LLaMA's and Chinese-Alpaca's, are merged in the order of their
    vocabularies, whatever the order in which they are given. The output is a complete folder or not there; the same
    command goes on with what a run that was killed has done.
    """
    from chatbridge.cli.progress import ProgressBar
    from chatbridge.model_tools.merging.merge import merge
    from chatbridge.model_tools.report import Report

    report = Report(command_line(), template=template)
    with stoppable(output), ProgressBar() as progress:
        done = merge(
            base, adapters, output, form, parts=parts, dtype=dtype, check=check, progress=progress, report=report
        )
    for warning in done.warnings:
        echo(styled("!", fg="yellow"), f" {warning}", err=True)
    if done.before:
        echo(f"Perplexity of three sentences: {done.before:,.1f} before, {done.after:,.1f} after.")
    echo(f"{output} is made. {next_step(output)}")
