"""The rwkv package's strategy strings: what they say, which layer goes where, and what is wrong with one, to the
character. Knows no file and no torch.

`cuda fp16i8 *20 -> cpu fp32` has two placements, joined by `->`. Each is a device and a type, and may give a number of
layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

DEVICES = "cpu, cuda, cuda:0 (or another number), mps, dml"
TYPES = "fp32, fp16, bf16, and fp32i8, fp16i8, bf16i8 with weights of 8 bits"
AUTO = "auto"

_PLACEMENT = re.compile(r" *(?P<device>\S+)(?P<gap> *)(?P<type>\S*)(?P<rest>.*)", re.DOTALL)
_DEVICE = re.compile(r"cuda(?::[0-9]{1,4})?|cpu|mps|dml")
_TYPE = re.compile(r"(fp16|fp32|bf16)(i8|i4|i3)?")
_COUNT = re.compile(r" \*([0-9]{1,6})(\+?)")


@dataclass(frozen=True, slots=True)
class Placement:
    """One part of a strategy string.

    `count`: layers; None takes a share of what is left. `stream`: takes all that is left besides, and streams that.
    """

    device: str
    type: str
    quantised: bool = False
    count: int | None = None
    stream: bool = False

    def __str__(self) -> str:
        count = "" if self.count is None else f" *{self.count}{'+' if self.stream else ''}"
        return f"{self.device} {self.type}{'i8' if self.quantised else ''}{count}"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one layer goes. `stream`: its weights stay in main memory and are copied for each use."""

    device: str
    type: str
    quantised: bool = False
    stream: bool = False


class StrategyError(ValueError):
    """What is wrong with a strategy string, and where: `at` counts characters from 0."""

    def __init__(self, strategy: str, at: int, why: str) -> None:
        super().__init__(f"character {at + 1}: {why}\n    {strategy}\n    {' ' * at}^")
        self.at = at


def parse(strategy: str) -> tuple[Placement, ...]:
    """The placements of a strategy string. Raises StrategyError for what the package refuses, or takes and ignores."""
    strategy = strategy.rstrip("\n")
    placements: list[Placement] = []
    start = 0
    for text in strategy.split("->"):
        placement = _parse_placement(strategy, text, start)
        if placement.stream and any(earlier.stream for earlier in placements):
            raise StrategyError(strategy, start + text.index("*"), "only one part can stream (+)")
        placements.append(placement)
        start += len(text) + len("->")
    return tuple(placements)


def _parse_placement(strategy: str, text: str, start: int) -> Placement:
    match = _PLACEMENT.match(text)
    if match is None:
        raise StrategyError(strategy, start + len(text), f"a device is missing; write one of {DEVICES}")
    device, name = match["device"], match["type"]
    if not _DEVICE.fullmatch(device):
        raise StrategyError(strategy, start + match.start("device"), f"{device!r} is no device; write one of {DEVICES}")
    if not name:
        raise StrategyError(strategy, start + match.end("device"), f"a type is missing after {device}: {TYPES}")
    if match["gap"] != " ":
        raise StrategyError(strategy, start + match.end("device") + 1, "write one blank before the type")
    kind = _TYPE.fullmatch(name)
    if kind is None:
        raise StrategyError(strategy, start + match.start("type"), f"{name!r} is no type; write one of {TYPES}")
    if kind[2] not in (None, "i8"):
        at = start + match.start("type") + len(kind[1])
        raise StrategyError(strategy, at, f"the package takes {kind[2]} and then ignores it; i8 is what there is")
    rest = match["rest"]
    count = _COUNT.match(rest)
    left = rest[count.end() :] if count else rest
    if left.strip(" "):
        at = start + match.start("rest") + len(rest) - len(left.lstrip(" "))
        why = "a number of layers is written as ' *20', or ' *20+' where the rest is to be streamed"
        raise StrategyError(strategy, at, why)
    number = None if count is None else int(count[1])
    if count and not number and not count[2]:
        raise StrategyError(
            strategy, start + match.start("rest") + 1, "a part for no layer; leave it out, or write *0+"
        )
    return Placement(device, kind[1], kind[2] is not None, number, bool(count and count[2]))


def plan(placements: Sequence[Placement], layers: int) -> tuple[Slot, ...]:
    """Where each layer goes, and last the head, which counts as one more; exactly as the package divides them."""
    counts, stream, streamed = _counts(placements, layers)
    slots: list[Slot] = []
    for number, placement in enumerate(placements):
        whole = counts[number] - (streamed if number == stream else 0)
        for at in range(counts[number]):
            slots.append(Slot(placement.device, placement.type, placement.quantised, stream=at >= whole))
    return tuple(slots[: layers + 1])


def idle_placement(placements: Sequence[Placement], layers: int) -> int | None:
    """The first part that gets no layer, by its number from 0; None where each gets one."""
    counts = _counts(placements, layers)[0]
    return next((number for number, count in enumerate(counts) if not count), None)


def _counts(placements: Sequence[Placement], layers: int) -> tuple[list[int], int | None, int]:
    """How many layers each part gets, the head among them; which one streams, and how many of its own."""
    counts = [0] * len(placements)
    left = layers + 1
    for number, placement in enumerate(placements):
        counts[number] = min(placement.count or 0, left)
        left -= counts[number]
        if not left and placement.count is not None:
            break
    streamed = 0
    stream = next((number for number, placement in enumerate(placements) if placement.stream), None)
    if stream is not None:
        streamed = left
        counts[stream] += left
    else:
        free = [number for number, placement in enumerate(placements) if placement.count is None]
        for done, number in enumerate(free):
            counts[number] = left // (len(free) - done)
            left -= counts[number]
        counts[-1] += left
    return counts, stream, streamed


def normal(placements: Sequence[Placement]) -> str:
    """The strategy as the package writes it into a converted file."""
    return " -> ".join(map(str, placements))


def spans(slots: Sequence[Slot]) -> list[tuple[int, int, Slot]]:
    """Neighbours alike put together: first layer, the one behind the last, and where they go."""
    found: list[tuple[int, int, Slot]] = []
    for number, slot in enumerate(slots):
        if found and found[-1][2] == slot:
            found[-1] = (found[-1][0], number + 1, slot)
        else:
            found.append((number, number + 1, slot))
    return found
