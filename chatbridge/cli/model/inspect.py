"""`chatbridge model inspect`: what one file or folder is, without loading it."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatbridge.cli.model.making import PLACE
from chatbridge.cli.output import Styled, echo, echo_json, joined, styled
from chatbridge.operations.printable import in_one_line

if TYPE_CHECKING:
    from chatbridge.model_files.description import AdapterDescription, ModelDescription, Problem
    from chatbridge.plugins.manager import Plugins

_MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow"), "note": ("·", "cyan")}


@click.command("inspect")
@click.argument("path", type=PLACE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(path: Path, as_json: bool) -> None:
    """Tell what lies at PATH, a file or a folder, from headers and shapes alone.

    Names family, sizes, vocabulary, quantisation, missing parts, the backend that runs it, and what is wrong. Exits 1
    where something is wrong with the model, else 0.
    """
    from chatbridge.model_files.inspect import inspect_model
    from chatbridge.model_files.running import chosen_backend, example_for
    from chatbridge.plugins.manager import Plugins

    plugins = Plugins()
    runs = {backend.name: backend.runs for backend in plugins.backends.values() if backend.runs}
    found = inspect_model(path, runs)
    if found.example:
        found = replace(found, example=example_for(found, chosen_backend(found, plugins.backends)))
    if as_json:
        echo_json({**asdict(found), "path": str(found.path), "sound": found.sound})
    else:
        _print(found, plugins)
    sys.exit(int(not found.sound))


def _print(found: ModelDescription, plugins: Plugins) -> None:
    echo(styled(str(found.path), bold=True))
    for line in columns(list(_lines(found, plugins)), shutil.get_terminal_size().columns):
        echo(line)
    for problem in found.problems:
        echo(_problem(problem))
    if found.example:
        echo()
        for line in excerpt(found, plugins):
            echo(f"  {line}")


def columns(rows: list[tuple[str, str]], width: int) -> Iterator[str]:
    """Two columns, the first as wide as its longest word; in a terminal of `width` columns, none runs over into it."""
    first = max(14, *(len(about) for about, _ in rows))
    for about, what in rows:
        line = f"  {about:<{first}} {in_one_line(what, 1000)}"
        if sys.stdout.isatty():
            yield from textwrap.wrap(line, max(width, first + 20), subsequent_indent=" " * (first + 3))
        else:
            yield line


def _lines(found: ModelDescription, plugins: Plugins) -> Iterator[tuple[str, str]]:
    family = found.family or "not known"
    apart = found.architecture and found.architecture.lower() != found.family.lower()
    yield (
        "family",
        f"{family}{f' ({found.architecture})' if apart else ''}{f', {found.variant}' if found.variant else ''}",
    )
    if found.format:
        yield "form", f"{found.format}{f', {_bytes(found.nbytes)}' if found.nbytes else ''}"
    if found.parameters:
        yield "parameters", _count(found.parameters)
    if sizes := _sizes(found):
        yield "sizes", sizes
    if found.vocabulary or found.tokens:
        yield "vocabulary", _vocabulary(found)
    if found.quantization:
        yield "quantisation", found.quantization
    if found.adapter is not None:
        yield "adapter", _adapter(found.adapter)
    if found.layout and found.backends:
        own = "its own" if found.chat_template else "none of its own"
        why = f", {found.preset_source}" if found.preset_source and found.preset != "model" else ""
        yield "chat template", f"{own}; fitting preset: {found.preset or 'none known'}{why}"
    yield from found.details.items()
    yield "backend", _backends(found, plugins)


def _sizes(found: ModelDescription) -> str:
    sizes = (
        (found.layers, f"{found.layers:,} layers"),
        (found.width, f"width {found.width:,}"),
        (found.heads, f"{found.heads:,} heads"),
        (found.inner, f"inner width {found.inner:,}"),
        (found.context, f"context {found.context:,} tokens"),
    )
    told = ", ".join(words for number, words in sizes if number)
    return f"its base: {told}" if found.adapter is not None and told else told


def _vocabulary(found: ModelDescription) -> str:
    """Both numbers, also where they are the same."""
    rows = f"{found.vocabulary:,} rows in the weights" if found.vocabulary else "rows not told"
    return f"{rows}, {found.tokens:,} ids in the tokenizer ({found.tokenizer})" if found.tokens else rows


def _adapter(adapter: AdapterDescription) -> str:
    ranks = " and ".join(map(str, adapter.rank)) or "not told"
    base = adapter.base or "a model that it does not name"
    whole = f"; it replaces a vocabulary with {adapter.vocabulary:,} rows" if adapter.vocabulary else ""
    return (
        f"{adapter.kind}, rank {ranks}, alpha {adapter.alpha:g}, {adapter.tensors:,} tensors, of "
        f"{', '.join(adapter.targets) or 'no layer'}{whole}; trained on {base}"
    )


def _backends(found: ModelDescription, plugins: Plugins) -> str:
    from chatbridge.plugins.packages import install_command

    named = []
    for name in found.backends:
        install = "" if name in plugins.backends else install_command("backend", name)
        named.append(f"{name} (not installed: {install})" if install else name)
    return ", ".join(named) or "none runs it as it is"


def excerpt(found: ModelDescription, plugins: Plugins) -> Iterator[str]:
    """How bots.yaml says it, for a backend that is installed if one is; else with what installs the best one."""
    from chatbridge.model_files.running import chosen_backend, example_for
    from chatbridge.plugins.packages import install_command

    backend = chosen_backend(found, plugins.backends)
    install = "" if backend in plugins.backends else install_command("backend", backend)
    yield f"in bots.yaml{f', after {install}' if install else ''}:"
    yield from (f"  {line}" for line in example_for(found, backend).splitlines())


def _problem(problem: Problem) -> Styled:
    mark, color = _MARKS[problem.severity]
    remedy = f"\n    → {in_one_line(problem.remedy, 1000)}" if problem.remedy else ""
    return joined(styled(mark, fg=color), f" {in_one_line(problem.message, 1000)}{remedy}")


def _count(number: int) -> str:
    if number < 10**6:
        return f"{number:,}"
    return f"{number / 1e6:,.1f} M" if number < 10**9 else f"{number / 1e9:,.2f} B"


def _bytes(number: int) -> str:
    from chatbridge.operations import hardware

    return hardware.size(number) if number >= 2**20 else f"{number:,} bytes"
