"""What a strategy takes of which memory, told from the file's sizes, and which strategy fits. Loads nothing.

The rwkv package keeps the embedding in main memory (RWKV-7: on the device), streams from main memory, and reads the
whole file into main memory before it gives anything to a card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chatbridge import ModelLoadError, free_memory
from chatbridge_rwkv.checkpoint import Checkpoint
from chatbridge_rwkv.strategy import Slot, StrategyError, parse, plan, spans

MAIN = "cpu"
_WIDTH = {"fp32": 4, "fp16": 2, "bf16": 2}
_SPARE_ON_CARD = 512 << 20  # what CUDA and the products themselves take


@dataclass(frozen=True, slots=True)
class Machine:
    """Free bytes: of main memory (0 where it can't be told), and of each NVIDIA card by its number."""

    main: int
    cards: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a plan takes for good on each device, `layers` by slot, and at most in main memory while loading."""

    devices: Mapping[str, int]
    layers: tuple[int, ...]
    peak: int


def this_machine() -> Machine:
    """What is free here and now."""
    import torch

    cards: tuple[int, ...] = ()
    if torch.cuda.is_available():
        cards = tuple(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    return Machine(free_memory(), cards)


def slots_for(checkpoint: Checkpoint, strategy: str) -> tuple[Slot, ...]:
    """Where each layer and the head go. Raises StrategyError for what this architecture can't have."""
    placements = parse(strategy)
    if checkpoint.version == 7:
        told = "RWKV-7 is loaded by one device and one type, as 'cuda fp16' or 'cpu fp32'"
        for sign, why in (("->", "the package would ignore all parts but the first"), (" *", "it would be ignored")):
            if sign in strategy:
                raise StrategyError(strategy, strategy.index(sign) + len(sign) - 1, f"{told}; {why}")
        if placements[0].quantised:
            raise StrategyError(strategy, strategy.index("i8"), f"{told}; there are no weights of 8 bits")
    return plan(placements, checkpoint.layers)


def needs(checkpoint: Checkpoint, slots: Sequence[Slot]) -> Needs:
    """What the plan takes."""
    layers = [0] * len(slots)
    embedding, largest, total = 0, 0, 0
    for name, tensor in checkpoint.tensors.items():
        number = int(name.split(".")[1]) if name.startswith("blocks.") else len(slots) - 1
        slot = slots[0 if name.startswith("emb.") else number]
        size = _size(checkpoint, name, slot)
        total += tensor.size * tensor.width
        largest = max(largest, tensor.size * 4)
        if name.startswith("emb."):
            embedding += size
        else:
            layers[number] += size
    devices: dict[str, int] = {MAIN: 0}
    for size, slot in zip(layers, slots, strict=True):
        place = MAIN if slot.stream else slot.device
        devices[place] = devices.get(place, 0) + size
        if slot.stream and slot.device != MAIN:  # room for one streamed layer at a time
            devices[slot.device] = devices.get(slot.device, 0) + max(layers)
    home = slots[0].device if checkpoint.version == 7 else MAIN
    devices[home] = devices.get(home, 0) + embedding
    mapped = checkpoint.version == 7
    peak = devices[MAIN] + largest if mapped else max(devices[MAIN], total) + largest
    return Needs(devices, tuple(layers), peak)


def report(slots: Sequence[Slot], needed: Needs) -> str:
    """Which layer goes where and how much memory it takes, in plain words."""
    head = len(slots) - 1
    told = []
    for start, end, slot in spans(slots):
        layers = "" if start == head else f"layer {start + 1}" if min(end, head) - start == 1 else ""
        layers = layers or ("" if start == head else f"layers {start + 1} to {min(end, head)}")
        which = " and ".join(part for part in (layers, "the head" if end > head else "") if part)
        packed = " with weights of 8 bits" if slot.quantised else ""
        streamed = ", kept in main memory and copied for each use" if slot.stream else ""
        told.append(f"{which} on {slot.device} in {slot.type}{packed}, {_gib(sum(needed.layers[start:end]))}{streamed}")
    totals = ", ".join(f"{_gib(size)} on {device}" for device, size in needed.devices.items() if size)
    return f"{'; '.join(told)}; with the embedding, {totals}"


def refuse_what_does_not_fit(checkpoint: Checkpoint, slots: Sequence[Slot], machine: Machine) -> None:
    """Raises ModelLoadError where the plan needs more than there is, with what would fit."""
    short = _shortage(needs(checkpoint, slots), machine)
    if short:
        fits = next(_fitting(checkpoint, machine), None)
        remedy = f"strategy: {fits} would fit" if fits else "take a smaller model, or free memory"
        raise ModelLoadError(f"{checkpoint.path}: {short}; {remedy}")


def choose(checkpoint: Checkpoint, machine: Machine) -> str:
    """The strategy for `auto`: cards before the processor, and the most exact that fits. Raises ModelLoadError."""
    found = next(_fitting(checkpoint, machine), None)
    if found is None:
        least = min(needs(checkpoint, slots_for(checkpoint, strategy)).peak for strategy in _on_processor(checkpoint))
        raise ModelLoadError(
            f"{checkpoint.path}: nothing fits: it needs {_gib(least)} of main memory at least, and "
            f"{_gib(machine.main)} are free; take a smaller model, or free memory"
        )
    return found


def _fitting(checkpoint: Checkpoint, machine: Machine) -> Iterator[str]:
    for strategy in _candidates(checkpoint, machine):
        if not _shortage(needs(checkpoint, slots_for(checkpoint, strategy)), machine):
            yield strategy


def _candidates(checkpoint: Checkpoint, machine: Machine) -> Iterator[str]:
    """Strategies worth having, the best first."""
    names = ["cuda" if number == 0 else f"cuda:{number}" for number in range(len(machine.cards))]
    yield from (f"{name} fp16" for name in names)
    if checkpoint.version != 7 and names:
        if len(names) > 1:
            yield _shared(checkpoint, machine)
        yield from (f"{name} fp16i8" for name in names)
        best = max(range(len(names)), key=lambda number: machine.cards[number])
        for count in range(checkpoint.layers, 0, -1):
            yield f"{names[best]} fp16i8 *{count} -> cpu fp32"
    yield from _on_processor(checkpoint)


def _on_processor(checkpoint: Checkpoint) -> tuple[str, ...]:
    exact = ("cpu fp32", "cpu bf16")
    return exact if checkpoint.version == 7 else (*exact, "cpu fp32i8")


def _shared(checkpoint: Checkpoint, machine: Machine) -> str:
    """Layers in fp16 on all cards, as many on each as its memory is a part of all."""
    total, free = checkpoint.layers + 1, sum(machine.cards)
    counts = [total * card // free for card in machine.cards]
    counts[-1] += total - sum(counts)
    parts = [f"cuda:{number} fp16 *{count}" for number, count in enumerate(counts) if count]
    return " -> ".join(parts)


def _shortage(needed: Needs, machine: Machine) -> str:
    """What is too little, in words; empty where everything fits."""
    for device, size in needed.devices.items():
        if device.startswith("cuda"):
            number = int(device.partition(":")[2] or 0)
            free = machine.cards[number] if number < len(machine.cards) else 0
            if size + _SPARE_ON_CARD > free:
                return f"{device} would need {_gib(size + _SPARE_ON_CARD)}, and {_gib(free)} are free"
    if machine.main and needed.peak > machine.main:
        return f"loading needs {_gib(needed.peak)} of main memory, and {_gib(machine.main)} are free"
    return ""


def _size(checkpoint: Checkpoint, name: str, slot: Slot) -> int:
    """Bytes of a tensor once it is loaded."""
    tensor = checkpoint.tensors[name]
    if checkpoint.converted is not None:
        return tensor.size * tensor.width
    width = _WIDTH[slot.type]
    matrix = len(tensor.shape) == 2 and "_w1" not in name and "_w2" not in name
    if name.startswith("emb."):
        return tensor.size * width
    if matrix and slot.quantised:
        return tensor.size + 2 * width * sum(tensor.shape)
    return tensor.size * (4 if ".time_decay" in name or ".time_first" in name else width)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
