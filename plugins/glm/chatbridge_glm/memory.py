"""What a model takes of which memory, told from its sizes, and where its layers go. Loads nothing.

Counts what `weights.Loader` keeps, to the byte for weights, and what it needs besides while it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatbridge import Machine, ModelLoadError
from chatbridge_glm.checkpoint import Checkpoint
from chatbridge_glm.config import Config

WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}
DISK = "disk"
"""Layers there are computed by the processor, with matrices that stay in the files and are read each time."""

KEPT = 1 << 30
"""What the states of finished answers take of main memory."""

SPARE = 512 << 20
"""What CUDA and torch's own allocator take on a card."""

PROGRAM = 256 << 20
"""What Python and torch take of main memory before there is a model; measured with torch 2.13."""

PIECE, PIECE_ON_CARDS = 64, 1024
"""Tokens of a prompt that are computed at a time, between which others may have their turn."""


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


def working_bytes(config: Config, dtype: str, device: str, length: int, *, on_cards: bool) -> int:
    """What a step takes besides on a device where layers lie, for a prompt of that many tokens.

    Counts what `model.Pass` holds: hidden states and queries of all tokens, and the products of one piece.
    """
    width = 4 if device == "cpu" else WIDTH[dtype]
    hidden, inner = config.hidden_size, config.inner_hidden_size
    piece = min(length, PIECE_ON_CARDS if on_cards else PIECE)
    wide = 2 * inner if config.glu else inner
    products = max(6 * hidden, 4 * hidden + 2 * wide + 2 * inner)
    logits = 2 * config.vocab_size * 4
    return width * (2 * length * hidden + piece * (products + length)) + logits


def conversations(config: Config, cache_dtype: str, length: int, devices: Sequence[str], free: Machine) -> int:
    """How many conversations of that length there is room for beside a loaded model; at least 1."""
    found = 1 << 20
    for device in dict.fromkeys(devices):
        share = devices.count(device) * cache_bytes(config, cache_dtype) // config.layers * length
        number = int(device.partition(":")[2] or 0)
        on_card = device.startswith("cuda") and number < len(free.cards)
        room = free.cards[number].free - SPARE if on_card else free.main - KEPT
        if on_card or free.main:
            found = min(found, room // share)
    return max(1, found)


def place(
    layers: int, given: Mapping[str, int], machine: Machine, layer: int, first: int, spare: int = SPARE
) -> tuple[str, ...]:
    """Where each layer goes. `given`: devices with their layers, 0 for a share by free memory; empty for all cards.

    `layer` and `first`: bytes of one layer, and of what lies on the first device besides; `spare`: what is left free on
    each card. Raises ModelLoadError.
    """
    if not given:
        given = {f"cuda:{number}": 0 for number in range(len(machine.cards))} or {"cpu": 0}
        if machine.cards and sum(_rooms([*given], machine, layer, first, spare).values()) < layers:
            given = {**given, "cpu": 0}
    if any(given.values()):
        if not all(given.values()) or sum(given.values()) != layers:
            raise ModelLoadError(
                f"device: the numbers make {sum(given.values())} layers, and the model has {layers}; give each device "
                "its number, or none"
            )
        counts = dict(given)
    else:
        counts = _shared(layers, [*given], machine, layer, first, spare)
    return tuple(name for name, count in counts.items() for _ in range(count))


def _shared(layers: int, names: Sequence[str], machine: Machine, layer: int, first: int, spare: int) -> dict[str, int]:
    """Cards are filled evenly, by what is free on each; what they have no room for goes to the processor."""
    counts = dict.fromkeys(names, 0)
    rooms = _rooms(names, machine, layer, first, spare)
    total = sum(rooms.values())
    on_cards = 0 if not total else layers if len(rooms) == len(names) else min(layers, total)
    before = 0
    for name, room in rooms.items() if total else ():
        # Rounded at the borders between cards, so that they add up.
        counts[name] = -(-on_cards * (before + room) // total) - -(-on_cards * before // total)
        before += room
    others = [name for name in names if name not in rooms] or [names[-1]]
    counts[others[0]] += layers - on_cards
    return {name: count for name, count in counts.items() if count}


def _rooms(names: Sequence[str], machine: Machine, layer: int, first: int, spare: int) -> dict[str, int]:
    """For how many layers each card has room; the first has the embedding besides."""
    cards = [name for name in names if name.startswith("cuda")]
    free = [(machine.free(name) or 0) - spare - (first if name == cards[0] else 0) for name in cards]
    return {name: max(0, bytes_) // layer for name, bytes_ in zip(cards, free, strict=True)}


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
