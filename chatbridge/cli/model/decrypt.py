"""`chatbridge model decrypt`: shows how far the work is, and what is wrong with what came out."""

from __future__ import annotations

from pathlib import Path

import click

from chatbridge.cli.model.making import PLACE, command_line, next_step, stoppable
from chatbridge.cli.output import echo, echo_problem


@click.command("decrypt")
@click.argument("source", type=PLACE)
@click.argument("key", type=PLACE)
@click.option("-o", "--output", type=PLACE, required=True, help="The file or folder to make.")
def command(source: Path, key: Path, output: Path) -> None:
    """Decrypt SOURCE, a file or folder that BELLE has published as XOR with the original LLaMA.

    KEY is the consolidated.00.pth of that LLaMA, or its folder. A wrong one is found before anything is written. The
    output is whole and has the hashes that were published, or it is not there; the same command goes on with what a
    run that was killed has done. Exits 1 also where what has come out is no sound model.
    """
    from chatbridge.cli.progress import ProgressBar
    from chatbridge.model_tools.decrypting.decrypt import decrypt
    from chatbridge.model_tools.report import Report

    with stoppable(output), ProgressBar() as progress:
        decrypt(source, key, output, progress, Report(command_line()))
    echo(f"{output} is made, with the hashes that were published.")
    if output.is_dir():
        _say_what_is_wrong(output)


def _say_what_is_wrong(output: Path) -> None:
    from chatbridge.errors import ModelLoadError
    from chatbridge.model_files.inspect import inspect_model

    try:
        found = inspect_model(output)
    except ModelLoadError as error:
        echo(f"It is no model by itself: {error}", err=True)
        return
    for problem in found.problems:
        echo_problem(problem)
    if found.sound:
        echo(next_step(output))
