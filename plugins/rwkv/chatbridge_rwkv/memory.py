"""What a strategy takes of which memory, told from the file's sizes. Loads nothing, and knows no machine.

The rwkv package keeps the embedding in main memory (RWKV-7: on the device), streams from main memory, and reads the
whole file into main memory before it gives anything to a card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatbridge_rwkv.checkpoint import Checkpoint
from chatbridge_rwkv.strategy import Slot, StrategyError, idle_placement, parse, plan, spans

MAIN = "cpu"
_WIDTH = {"fp32": 4, "fp16": 2, "bf16": 2}
SPARE = 512 << 20
"""What CUDA and torch's own allocator take on a card."""

PROGRAM = 256 << 20
"""What Python and torch take of main memory before there is a model; measured with torch 2.13."""

STEP_TOKENS = 512
"""Tokens of a prompt that go through the model at a time, at most, as working memory is reckoned."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a plan takes for good on each device, `layers` by slot, and at most in main memory while loading."""

    devices: Mapping[str, int]
    layers: tuple[int, ...]
    peak: int


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
    if (idle := idle_placement(placements, checkpoint.layers)) is not None:
        at = len("->".join(strategy.split("->")[:idle])) + (len("-> ") if idle else 0)
        told = f"this part would have no effect: the others take all {checkpoint.layers} layers and the head"
        raise StrategyError(strategy, at, f"{told}; leave it out, or write smaller numbers in the others")
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


def state_bytes(checkpoint: Checkpoint) -> int:
    """Of one conversation's state in one layer, as `state.Layout` holds it in float32."""
    wkv = checkpoint.heads * checkpoint.head_size**2 or 3 * checkpoint.attention_width
    return 4 * (2 * checkpoint.width + wkv)


def working_bytes(checkpoint: Checkpoint) -> int:
    """What a step takes besides, estimated: each token's inner activations, and scores of the vocabulary."""
    return 4 * (STEP_TOKENS * 12 * checkpoint.width + 2 * checkpoint.vocab_size)


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
        told.append(f"{which} on {slot.device} in {slot.type}{packed}, {gib(sum(needed.layers[start:end]))}{streamed}")
    totals = ", ".join(f"{gib(size)} on {device}" for device, size in needed.devices.items() if size)
    return f"{'; '.join(told)}; with the embedding, {totals}"


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


def gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
