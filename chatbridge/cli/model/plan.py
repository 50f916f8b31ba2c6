"""`chatbridge model plan`: what a model takes of each device, drawn as bars, and what would make it fit."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from chatbridge.cli.model.making import named_place
from chatbridge.cli.output import Styled, echo, echo_json, joined, styled
from chatbridge.operations.printable import in_one_line

if TYPE_CHECKING:
    from chatbridge.model_tools.planning.memory_plan import DevicePlan, MemoryPlan, Part

_LOOKS: dict[Part, tuple[str, str, str]] = {
    "weights": ("█", "#", "cyan"),
    "cache": ("▓", "=", "green"),
    "working memory": ("▒", "-", "yellow"),
    "program": ("░", ":", "magenta"),
}
"""How each part is drawn, how where there is no Unicode, and in which colour."""

_WIDEST, _NARROWEST = 100, 24
_MAX_TOLD = 6
"""Changes that were tried in vain and are told; programs get all of them."""


@click.command("plan")
@click.argument("path", callback=named_place)
@click.option("--context", type=click.IntRange(8, 1 << 30), help="Tokens of one conversation; else the backend's own.")
@click.option("--conversations", type=click.IntRange(1, 1 << 16), help="Conversations of that length at once.")
@click.option("--quant", metavar="Q", default="", help="What weights are to be in: int4, nf4, q4_0, fp16i8, …")
@click.option("--devices", metavar="DEVICES", help="The machine, as 8xA100-40G or 2x3090-24G,cpu-64G; else this one.")
@click.option("--backend", metavar="NAME", default="", help="The backend; else the one that runs it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    path: str,
    context: int | None,
    conversations: int | None,
    quant: str,
    devices: str | None,
    backend: str,
    as_json: bool,
) -> None:
    """Tell whether the model at PATH fits, where each part goes, and what would make it fit.

    PATH is a file, a folder, a name of `model list` that was fetched, or a name such as chatglm-6b, glm-130b, llama-7b
    or rwkv-4-14b, whose files need not be there. Nothing is loaded. Exits 1 where it does not fit, else 0.
    """
    from chatbridge.model_tools.planning.machine import parse_devices, this_machine
    from chatbridge.model_tools.planning.planner import Wish, plan_place
    from chatbridge.plugins.manager import Plugins

    try:
        machine = this_machine() if devices is None else parse_devices(devices)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--devices'") from None
    wish = Wish(context or 0, conversations or 0, quant, backend, devices is not None)
    found = plan_place(path, Plugins().backends, machine, wish)
    if as_json:
        echo_json(found.as_json())
    else:
        for line in drawn(found, shutil.get_terminal_size().columns, plain=not _has_blocks()):
            echo(line)
    sys.exit(int(not found.fits))


def drawn(plan: MemoryPlan, columns: int, *, plain: bool = False) -> Iterator[str]:
    """The lines of a plan, none wider than the terminal. `plain`: bars of ASCII."""
    from chatbridge.model_tools.planning.memory_plan import PARTS

    width = max(_NARROWEST, min(columns, _WIDEST))
    count = f"{plan.conversations:,} conversation{'s' * (plan.conversations > 1)} of {plan.context:,} tokens"
    yield from _wrapped(in_one_line(plan.model, 500), width, bold=True)
    yield from _wrapped(f"{plan.backend}, {plan.quantization}; {count}", width)
    yield from _wrapped(", ".join(f"{_LOOKS[part][plain]} {part}" for part in PARTS), width)
    for device in plan.devices:
        yield ""
        yield from _device(device, width, plain)
    yield ""
    for note in plan.notes:
        yield from _wrapped(note, width)
    yield from _verdict(plan, width)


def _device(device: DevicePlan, width: int, plain: bool) -> Iterator[str]:
    from chatbridge.model_tools.planning.memory_plan import gib

    holds = f": {device.holds}" if device.holds else ""
    name = "main memory" if device.device == "cpu" else f"{device.device} {in_one_line(device.name)}".strip()
    yield from _wrapped(f"{name}{holds}", width, bold=True)
    yield _bar(device, width, plain)
    parts = ", ".join(f"{gib(size)} {part}" for part, size in device.parts.items())
    whole = f"{gib(device.needed)}" if device.free is None else f"{gib(device.needed)} of {gib(device.free)}"
    loading = f"; {gib(device.loading)} while loading" if device.loading > device.needed else ""
    yield from _wrapped(f"{whole}: {parts}{loading}" if parts else f"{whole}{loading}", width)


def _bar(device: DevicePlan, width: int, plain: bool) -> Styled:
    """The device's memory as one line: its parts, what is free, and what is too much behind a mark."""
    whole = max(device.free or 0, device.needed, 1)
    end = width if device.free is None else width * device.free // whole
    pieces: list[str] = []
    done = before = 0
    for part, size in device.parts.items():
        before += size
        stop = -(-width * before // whole)
        sign, ascii_, color = _LOOKS[part]
        fill = ascii_ if plain else sign
        pieces.append(styled(fill * (min(stop, end) - done), fg=color))
        if stop > max(end, done):
            pieces.append(styled(("!" if plain else "╳") * (stop - max(end, done)), fg="red"))
        done = stop
    return joined(*pieces, ("." if plain else "·") * (width - done))


def _verdict(plan: MemoryPlan, width: int) -> Iterator[str]:
    if plan.fits:
        untold = any(device.free is None for device in plan.devices)
        yield from _wrapped(
            "✓ it fits" + (", if main memory has room for its part" if untold else ""), width, fg="green"
        )
        return
    yield from _wrapped(f"✗ it does not fit: {plan.shortage()}", width, fg="red")
    vain = [change for change in plan.tried if not change.plan.fits]
    for change in vain[:_MAX_TOLD]:
        yield from _wrapped(f"  · {change.change}: {change.plan.shortage()}", width)
    if len(vain) > _MAX_TOLD:
        yield f"  · and {len(vain) - _MAX_TOLD} more in vain"
    if plan.remedy is not None:
        yield from _wrapped(f"  → {plan.remedy.change} would fit", width, fg="green")
    else:
        yield from _wrapped(f"  → {plan.otherwise}", width)


def _wrapped(text: str, width: int, *, fg: str | None = None, bold: bool | None = None) -> Iterator[Styled]:
    indent = "    " if text.startswith("  ") else "  "
    for line in textwrap.wrap(text, width, subsequent_indent=indent, drop_whitespace=True) or [""]:
        yield styled(line, fg=fg, bold=bold)


def _has_blocks() -> bool:
    """Whether the output can show the bars' signs."""
    try:
        "█▓▒░·╳✓✗→".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
