"""Shows how far a quantised file is from its source: numbers, and a plot of the divergence. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from chatbridge.cli.output import echo

_BAR = 40
"""Characters of the longest bar."""

LIKE, OTHER = 0.01, 0.1
"""Mean KL divergence, in nats, up to which a file is as good as its source, and above which it is another model.

A rule of thumb, and no measurement.
"""

_TITLE = "KL divergence of the next token's probabilities, for each token of the text"


def show(found: Mapping[str, Any], output: Path) -> None:
    """Print what a comparison found; draw it beside `output` where matplotlib is there, else in the terminal.

    `found`: the step "check" of a report.
    """
    for line in lines(found):
        echo(line)
    picture = output.with_name(f"{output.name}.check.svg")
    if draw(found["histogram"], picture):
        echo(f"  plot: {picture}")
        return
    echo(f"  {_TITLE} (pip install matplotlib draws it as a picture):")
    for line in bars(found["histogram"]):
        echo(f"    {line}")


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The numbers, one a line."""
    read = f"{found['tokens']:,} tokens of {found['text']}"
    more = ""
    if found["read_tokens"] < found["text_tokens"]:
        more = f", whose other {found['text_tokens'] - found['read_tokens']:,} had no room: see --check-gib"
    yield f"compared on {read}{more}"
    before, after = found["perplexity"]["source"], found["perplexity"]["made"]
    yield f"  perplexity       {before:,.4g} in the source, {after:,.4g} in what was made ({after / before - 1:+.2%})"
    divergence = found["kl_divergence"]
    yield f"  KL divergence    {divergence['mean']:.3g} on average; 99 of 100 tokens below {divergence['p99']:.3g}"
    yield f"  same top token   {found['same_top_token']:.2%}"
    yield f"  judged           {judgement(divergence['mean'])}"
    yield f"                   by the mean KL divergence: below {LIKE:g} hardly to be told from the source, up to"
    yield f"                   {OTHER:g} some answers differ, above that much is lost"


def judgement(mean: float) -> str:
    """What a mean KL divergence, in nats, says of the file that was made."""
    if mean < LIKE:
        return "hardly to be told from the source"
    return "some answers differ from the source's" if mean <= OTHER else "much is lost: take a larger type"


def bars(histogram: Mapping[str, Any]) -> Iterator[str]:
    """The histogram in characters: from the least divergence that occurs to the greatest."""
    edges, counts = histogram["log10_edges"], histogram["counts"]
    used = [i for i, count in enumerate(counts) if count]
    for i in range(used[0], used[-1] + 1):
        bar = "#" * round(_BAR * counts[i] / max(counts))
        yield f"{10 ** edges[i]:.1e} … {10 ** edges[i + 1]:.1e}  {bar} {counts[i]:,}"


def draw(histogram: Mapping[str, Any], path: Path) -> bool:
    """Draw it as an SVG file; False where matplotlib is not installed."""
    try:
        figure = import_module("matplotlib.figure").Figure(figsize=(7, 4), layout="constrained")
    except ImportError:
        return False
    axes = figure.subplots()
    edges = [10**edge for edge in histogram["log10_edges"]]
    widths = [right - left for left, right in pairwise(edges)]
    axes.bar(edges[:-1], histogram["counts"], widths, align="edge", edgecolor="white")
    axes.set_xscale("log")
    axes.set_xlabel(f"{_TITLE} (nats)")
    axes.set_ylabel("tokens")
    figure.savefig(path, format="svg")
    return True
