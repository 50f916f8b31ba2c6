"""`chatbridge model pull`: fetches a model by a name of the catalogue, from Hugging Face or from an address."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatbridge.cli.model.making import PLACE, next_step
from chatbridge.cli.output import echo, echo_error, echo_problem
from chatbridge.errors import ModelLoadError

if TYPE_CHECKING:
    from chatbridge.model_tools.fetching.patience import Patience
    from chatbridge.model_tools.fetching.pull import Pull


@click.command("pull")
@click.argument("source")
@click.option("-o", "--output", type=PLACE, metavar="FOLDER", help="The folder to make, of this model alone.")
@click.option("--revision", default="", help="A branch, tag or commit on Hugging Face; the newest unless given.")
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Files to fetch, as '*q4_k_m.gguf'; may be given several times."
)
@click.option(
    "--tries", type=click.IntRange(1, 1000), default=5, show_default=True, help="Failures in a row until it gives up."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    show_default=True,
    help="Seconds that a server may stay silent.",
)
@click.option(
    "--longest-wait",
    type=click.FloatRange(0, 86_400),
    default=120.0,
    show_default=True,
    help="Seconds that a busy server may ask to wait before it gives up.",
)
def command(
    source: str,
    output: Path | None,
    revision: str,
    include: tuple[str, ...],
    tries: int,
    timeout: float,
    longest_wait: float,
) -> None:
    """Fetch SOURCE: a name of `chatbridge model list`, owner/name on Hugging Face, or an https address.

    owner/name:FILE is one file of a repository, an address may end in #sha256=…; HF_TOKEN is for what is not for
    everybody. The folder is whole or not there; a run that was stopped or killed is gone on with by the same command.
    Exits 1 where it can't be fetched, and where what has come is no sound model, unless --include chose parts of one.
    """
    from chatbridge.model_tools.fetching.patience import Patience

    patience = Patience(tries, longest_wait)
    fetched = fetch(source, output, revision, include, timeout=timeout, patience=patience)
    _tell_what_it_is(source, fetched, output, parts=bool(include))


def fetch(
    source: str,
    output: Path | None = None,
    revision: str = "",
    include: tuple[str, ...] = (),
    *,
    timeout: float = 30.0,
    patience: Patience | None = None,
) -> Path:
    """Fetch what somebody named, and tell how far it is. Returns the folder. Raises ModelLoadError."""
    from chatbridge.cli.progress import ProgressBar
    from chatbridge.model_tools.fetching.catalogue import entry
    from chatbridge.model_tools.fetching.catalogue import named as entry_named
    from chatbridge.model_tools.fetching.patience import Patience
    from chatbridge.model_tools.fetching.pull import look, pull
    from chatbridge.model_tools.fetching.remote import parse_source, without_secrets
    from chatbridge.model_tools.report import Report

    named = entry_named(source)
    if named is not None and named.request:
        raise ModelLoadError(f"{source}: its owners give it away by request only: ask at {named.request}")
    if named is None and "/" not in source:
        entry(source)  # says which name is close
    if revision and "://" in source:
        raise ModelLoadError("--revision is for a repository on Hugging Face, and this is an address; leave it out")
    parsed = parse_source(named.source, revision or named.revision) if named else parse_source(source, revision)
    wanted = include or (named.files if named else ())
    folder = output or _own_folder(named.name if named else parsed.folder)
    if named and named.terms:
        echo(f"its licence: {named.licence}, {named.terms}", err=True)
    sha256 = named.sha256 if named else None
    patience = replace(patience or Patience(), tell=lambda words: echo(words, err=True))
    shown = without_secrets(source) if "://" in source else source
    words = ["model", "pull", shown, *(["--revision", revision] if revision else ())]
    report = Report(
        shlex.join([*words, *(word for pattern in include for word in ("--include", pattern))]),
        template=named.template if named and named.template != "model" else "",
    )
    try:
        work = look(parsed, folder, wanted, sha256=sha256, timeout=timeout, patience=patience)
        echo(_plan(work), err=True)
        with ProgressBar() as progress:
            made = pull(work, report, progress)
    except KeyboardInterrupt:
        echo("stopped; the same command goes on where it was", err=True)
        sys.exit(130)
    echo(f"{folder} is {'fetched' if made else 'there already, and each file has its checksum'}", err=True)
    return folder


def _own_folder(name: str) -> Path:
    """Among the fetched models. Raises ModelLoadError."""
    from chatbridge.operations.folders import models_folder

    models = models_folder()
    if models is None:
        raise ModelLoadError("there is no home folder to keep models in; name a folder by -o, or by CHATBRIDGE_MODELS")
    return models / name


def _plan(work: Pull) -> str:
    """Sizes first: what is to be fetched, and what room there is."""
    from chatbridge.operations import hardware

    files = work.remote.files
    what = files[0].name if len(files) == 1 else f"{len(files)} files"
    size = "of a size that the server does not say" if work.size is None else hardware.size(work.size)
    there = f", {hardware.size(work.there)} of it from an earlier run" if work.there else ""
    where = f" at {work.remote.revision[:12]}" if work.remote.revision else ""
    others = len(work.remote.left_out)
    left = f"; {others} other file{' is' if others == 1 else 's are'} left out" if others else ""
    return (
        f"{work.remote.source}{where}: {what}, {size}{there}{left}\n"
        f"into {work.folder}, whose disk has {hardware.size(work.free)} free"
    )


def _tell_what_it_is(source: str, folder: Path, output: Path | None, *, parts: bool) -> None:
    """What was fetched, by a look at it, and what to do with it. `parts`: only some files were wanted, which need be
    no whole model; else what is wrong with it is an error."""
    from chatbridge.model_files.description import at
    from chatbridge.model_files.inspect import inspect_model
    from chatbridge.model_tools.fetching.catalogue import named

    try:
        found = inspect_model(folder)
    except ModelLoadError as error:
        if parts:
            echo(f"note: by itself it is no model: {error}", err=True)
        else:
            echo_error(str(error))
        return
    for problem in found.problems:
        severity = "note" if parts and problem.severity == "error" else problem.severity
        echo_problem(replace(problem, severity=severity, message=at(found.path, problem.message)))
    if found.sound:
        known = named(source) if output is None else None
        echo(next_step(folder, known.name, known.backend) if known else next_step(folder))
