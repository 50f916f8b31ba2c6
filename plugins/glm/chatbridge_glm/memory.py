"""What a model takes of which memory, told from its sizes, and where its layers go. Loads nothing.

Counts what `weights.Loader` keeps, to the byte for weights, and what it needs besides while it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatbridge import ModelLoadError, free_memory
from chatbridge_glm.checkpoint import Checkpoint
from chatbridge_glm.config import Config

WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}
DISK = "disk"
"""Layers there are computed by the processor, with matrices that stay in the files and are read each time."""

KEPT = 1 << 30
"""What the states of finished answers take of main memory."""

SPARE = 512 << 20
"""What CUDA and the products themselves take on a card."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Free bytes: of main memory (0 where it can't be told), and of each NVIDIA card by its number."""

    main: int
    cards: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be loaded how: `bits` 0, 4 or 8; `devices` of each layer. The embedding lies on the first one."""

    bits: int
    dtype: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes: of one layer, of the embedding, for good on each device, and at most in main memory while loading."""

    layer: int
    embedding: int
    devices: Mapping[str, int]
    peak: int


def this_machine() -> Machine:
    """What is free here and now."""
    import torch

    cards: tuple[int, ...] = ()
    if torch.cuda.is_available():
        cards = tuple(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    return Machine(free_memory(), cards)


def layer_bytes(config: Config, bits: int, dtype: str, device: str, parts: int = 1) -> int:
    """Of one layer. `parts`: shards that keep scales of their own for the matrices that are split by columns."""
    hidden, inner = config.hidden_size, config.inner_hidden_size
    wide = 2 * inner if config.glu else inner
    weights = 3 * hidden * hidden + hidden * hidden + wide * hidden + inner * hidden
    small = 3 * hidden + hidden + wide + hidden + 4 * hidden
    stream = 4 if device in ("cpu", DISK) else WIDTH[dtype]
    if device == DISK:
        # Of what is packed, scales are kept in memory; the weights stay where they are.
        return small * stream + (2 * (3 * hidden + wide + 2 * hidden * parts) if bits else 0)
    if not bits:
        return weights * WIDTH[dtype] + small * stream
    scales = 3 * hidden + wide + 2 * hidden * parts
    return weights * bits // 8 + scales * 2 + small * stream


def embedding_bytes(checkpoint: Checkpoint, plan: Plan) -> int:
    config = checkpoint.config
    if checkpoint.embedding_bits:
        return config.vocab_size * (config.hidden_size * checkpoint.embedding_bits // 8 + 2)
    width = 2 if plan.bits else WIDTH[plan.dtype]
    return config.vocab_size * config.hidden_size * width


def needs(checkpoint: Checkpoint, plan: Plan) -> Needs:
    """What the plan takes."""
    parts = checkpoint.parallel if checkpoint.bits else 1
    devices: dict[str, int] = {}
    places = ["cpu" if device == DISK else device for device in plan.devices]
    for device, place in zip(plan.devices, places, strict=True):
        size = layer_bytes(checkpoint.config, plan.bits, plan.dtype, device, parts)
        devices[place] = devices.get(place, 0) + size
    embedding = embedding_bytes(checkpoint, plan)
    devices[places[0]] += embedding
    last_norm = 2 * checkpoint.config.hidden_size * (4 if places[-1] == "cpu" else WIDTH[plan.dtype])
    devices[places[-1]] += last_norm
    largest = max(tensor.nbytes for tensor in checkpoint.tensors.values())
    if devices.keys() != {"cpu"} or (plan.bits and not checkpoint.bits):
        largest *= checkpoint.parallel  # joined in main memory, before it is packed or goes to a card
    # One tensor of one file as it comes; all else goes by rows.
    peak = devices.get("cpu", 0) + largest
    return Needs(
        layer_bytes(checkpoint.config, plan.bits, plan.dtype, plan.devices[0], parts), embedding, devices, peak
    )


def cache_bytes(config: Config, cache_dtype: str) -> int:
    """Of one token in all layers."""
    return 2 * config.layers * config.hidden_size * WIDTH[cache_dtype]


def conversations(config: Config, cache_dtype: str, length: int, devices: Sequence[str], free: Machine) -> int:
    """How many conversations of that length there is room for beside a loaded model; at least 1."""
    found = 1 << 20
    for device in dict.fromkeys(devices):
        share = devices.count(device) * cache_bytes(config, cache_dtype) // config.layers * length
        number = int(device.partition(":")[2] or 0)
        on_card = device.startswith("cuda") and number < len(free.cards)
        room = free.cards[number] - SPARE if on_card else free.main - KEPT
        if on_card or free.main:
            found = min(found, room // share)
    return max(1, found)


def place(layers: int, given: Mapping[str, int], machine: Machine, layer: int, first: int) -> tuple[str, ...]:
    """Where each layer goes. `given`: devices with their layers, 0 for a share by free memory; empty for all cards.

    `layer` and `first`: bytes of one layer, and of what lies on the first device besides. Raises ModelLoadError.
    """
    if not given:
        given = {f"cuda:{number}": 0 for number in range(len(machine.cards))} or {"cpu": 0}
        if machine.cards and sum(_room(name, machine, layer) for name in given) < layers:
            given = {**given, "cpu": 0}
    if any(given.values()):
        if not all(given.values()) or sum(given.values()) != layers:
            raise ModelLoadError(
                f"device: the numbers make {sum(given.values())} layers, and the model has {layers}; give each device "
                "its number, or none"
            )
        counts = dict(given)
    else:
        counts = _shared(layers, [*given], machine, layer, first)
    return tuple(name for name, count in counts.items() for _ in range(count))


def _shared(layers: int, names: Sequence[str], machine: Machine, layer: int, first: int) -> dict[str, int]:
    """Cards are filled evenly, by what is free on each; what they have no room for goes to the processor."""
    counts = dict.fromkeys(names, 0)
    rooms = {name: _room(name, machine, layer) for name in names if name.startswith("cuda")}
    if rooms:
        rooms[next(iter(rooms))] = max(0, next(iter(rooms.values())) - -(-first // layer))
    left = layers if not rooms or len(rooms) == len(names) else min(layers, sum(rooms.values()))
    for name, room in rooms.items():
        counts[name] = min(left, -(-left * room // max(1, sum(rooms.values()))))
    missing = layers - sum(counts.values())
    others = [name for name in names if name not in rooms] or [names[-1]]
    counts[others[0]] += missing
    return {name: count for name, count in counts.items() if count}


def _room(name: str, machine: Machine, layer: int) -> int:
    number = int(name.partition(":")[2] or 0)
    free = machine.cards[number] if number < len(machine.cards) else 0
    return max(0, free - SPARE) // layer


def refuse_what_does_not_fit(checkpoint: Checkpoint, plan: Plan, machine: Machine) -> None:
    """Raises ModelLoadError where the plan needs more than there is, with what would fit."""
    if short := shortage(needs(checkpoint, plan), machine):
        smaller = [bits for bits in (8, 4) if not checkpoint.bits and bits < (plan.bits or 16)]
        fits = next(
            (
                bits
                for bits in smaller
                if not shortage(needs(checkpoint, Plan(bits, plan.dtype, plan.devices)), machine)
            ),
            None,
        )
        remedy = f"quantization: int{fits} would fit" if fits else "take a smaller model, free memory, or leave layers"
        remedy += "" if fits else " in the files by device: disk, which is slow"
        raise ModelLoadError(f"{checkpoint.path}: {short}; {remedy}")


def shortage(needed: Needs, machine: Machine) -> str:
    """What is too little, in words; empty where everything fits."""
    for device, size in needed.devices.items():
        if device.startswith("cuda"):
            number = int(device.partition(":")[2] or 0)
            free = machine.cards[number] if number < len(machine.cards) else 0
            if size + SPARE > free:
                return f"{device} would need {gib(size + SPARE)}, and {gib(free)} are free"
    if machine.main and needed.peak > machine.main:
        return f"loading needs {gib(needed.peak)} of main memory, and {gib(machine.main)} are free"
    return ""


def report(checkpoint: Checkpoint, plan: Plan) -> str:
    """Which layer goes where and how much memory it takes, in plain words."""
    needed = needs(checkpoint, plan)
    told = []
    start = 0
    for device in dict.fromkeys(plan.devices):
        count = plan.devices.count(device)
        layers = f"layers {start + 1} to {start + count}" if count > 1 else f"layer {start + 1}"
        told.append(f"{layers} on {device}")
        start += count
    totals = ", ".join(f"{gib(size)} on {device}" for device, size in needed.devices.items())
    return f"{'; '.join(told)}; with the embedding, {totals}"


def gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
