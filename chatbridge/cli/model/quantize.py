"""`chatbridge model quantize`: the plugin llama_cpp's converter, with its options by name, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatbridge.cli.model.making import PLACE, carried_template, command_line, next_step, stoppable, word
from chatbridge.cli.output import echo, styled
from chatbridge.errors import ModelLoadError
from chatbridge.plugins.packages import install_command
from chatbridge.suggest import did_you_mean

if TYPE_CHECKING:
    from chatbridge.model_tools.converter import Converter
    from chatbridge.plugins.manager import Plugins

_PLUGIN = "llama_cpp"
"""Whose converter it is; named like its backend."""


@click.command("quantize")
@click.argument("source", metavar="SRC", type=PLACE)
@click.argument("target", metavar="TYPE")
@click.option("-o", "--output", type=PLACE, help="The GGUF file to make.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads that compute; else one for each core.")
@click.option("--leave-output", is_flag=True, help="Leave output.weight as it is.")
@click.option("--pure", is_flag=True, help="One type for all tensors, without a mixture.")
@click.option("--imatrix", type=PLACE, metavar="FILE", help="What llama-imatrix made of a text.")
@click.option("--requantize", is_flag=True, help="Take a file that is quantised already, though that loses more.")
@click.option("--dry-run", is_flag=True, help="Say what would be made and how large, and make nothing.")
@click.option("--check", is_flag=True, help="Compare both files on a text when it is made.")
@click.option("--check-text", type=PLACE, metavar="FILE", help="That text, in UTF-8; else one of ours.")
@click.option(
    "--check-gib", type=click.FloatRange(0, min_open=True), help="Room on the disk for the comparison, in GiB; else 1."
)
def command(source: Path, target: str, output: Path | None, **options: Any) -> None:
    """Quantise the GGUF file SRC to TYPE (q4_k_m, q8_0, iq4_xs, …) by llama.cpp's own quantiser.

    --check compares both on a text: perplexity, KL divergence, how often both would say the same, and a plot. What was
    done stands in OUT.report.json. A run that was killed leaves OUT.partial alone, and the next one begins anew.
    """
    if output is None and not options["dry_run"]:
        raise click.UsageError("Missing option '-o' / '--output', the file to make (or --dry-run).")
    options["check"] = options["check"] or options["check_text"] is not None
    if options["dry_run"] and options["check"]:
        raise click.UsageError("--check compares what was made, and --dry-run makes nothing; leave one of them out.")
    if options["check_gib"] is not None and not options["check"]:
        raise click.UsageError("--check-gib is room for the comparison of --check; give both, or neither.")
    given = {name: value for name, value in options.items() if value is not None}
    steps = quantize(source, target, output, given)
    for line in plan_lines(steps["plan"]):
        echo(*line)
    if output is None or options["dry_run"]:
        return
    if found := steps.get("check"):
        from chatbridge.cli.model.compare import show

        show(found, output)
    echo(f"{output} is made. {next_step(output)}")


def quantize(
    source: Path, target: str, output: Path | None, options: Mapping[str, object]
) -> dict[str, Mapping[str, Any]]:
    """Quantise, and return the steps of the report by name. Raises ModelLoadError, PluginError."""
    from chatbridge.cli.progress import ProgressBar
    from chatbridge.model_files.inspect import sound_model
    from chatbridge.model_tools.converter import Conversion
    from chatbridge.model_tools.output import check_output
    from chatbridge.model_tools.report import Report
    from chatbridge.plugins.manager import Plugins

    converter = llama_converter(Plugins())
    if not converter.writes(target):
        known = ", ".join(converter.makes)
        raise ModelLoadError(
            f"there is no type {target!r} (known: {known}){did_you_mean(target.lower(), converter.makes)}"
        )
    found = sound_model(source)
    if not converter.reads(found):
        what = found.family or found.format or "a model"
        remedy = "give the GGUF file of a whole model"
        if found.layout not in ("gguf-adapter", "peft"):
            made = word(Path(f"{found.path.stem}.gguf"))
            remedy = f"make one of a whole model first: chatbridge model convert {word(source)} -t f16 -o {made}"
        raise ModelLoadError(f"{found.path}: this is {what} ({found.layout}), and GGUF files are quantised; {remedy}")
    if output is not None and not options.get("dry_run"):
        check_output(output)
    report = Report(command_line(), template=carried_template(found))
    with stoppable(output or source), ProgressBar() as progress:
        work = Conversion(found, target, output or source, options, progress, report)
        if converter.check is not None:
            converter.check(work)
        converter.convert(work)
    return {step["step"]: step for step in report.steps}


def llama_converter(plugins: Plugins) -> Converter:
    """What the plugin has registered. Raises PluginError with the way to get it."""
    if (found := plugins.converters.get(_PLUGIN)) is not None:
        return found
    plugins.require_backend(_PLUGIN)
    raise ModelLoadError(f"quantising needs a newer llama.cpp: {install_command('backend', _PLUGIN)}")


def plan_lines(plan: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """What is made, for people."""
    counts = ", ".join(f"{count:,} of {kind}" for kind, count in plan["tensors"].items())
    share = plan["bytes"] / plan["source_bytes"]
    yield (f"{plan['type']}: {_bytes(plan['bytes'])}, {share:.0%} of the source's {_bytes(plan['source_bytes'])}",)
    yield (f"  tensors: {counts}",)

    def kinds(fallback: Mapping[str, Any]) -> tuple[str, int, str]:
        return fallback["asked"], fallback["block"], fallback["made"]

    for (asked, block, made), group in groupby(sorted(plan["fallbacks"], key=kinds), key=kinds):
        names = [fallback["tensor"] for fallback in group]
        yield (
            styled("!", fg="yellow"),
            f" {asked} packs {block} numbers of a row together, which does not fit {_some(names)}: {made} instead",
        )
    if plan["requantised"]:
        yield styled("!", fg="yellow"), f" {plan['requantised']:,} tensors were quantised before, and lose more now"
    if plan["needs_imatrix"]:
        yield styled("!", fg="yellow"), " it is made only with an importance matrix: --imatrix"
    if plan["without_importance"]:
        yield styled("·", fg="cyan"), f" {plan['imatrix']} has no weights for {_some(plan['without_importance'])}"


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3:,} more' if len(names) > 3 else ''}"


def _bytes(number: int) -> str:
    from chatbridge.operations import hardware

    return hardware.size(number) if number >= 2**20 else f"{number:,} bytes"
