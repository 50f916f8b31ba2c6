"""How much memory there is for a model: main memory and graphics cards, of this machine or of one that is written down.

`8xA100-40G,cpu-64G` is a machine of eight cards. Knows no model and no backend.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from chatbridge.operations.hardware import free_memory, output_of

MAIN = "cpu"
"""What options call the processor, and so main memory."""

MAX_CARDS = 64
"""Cards of one machine that is written down; no machine that one buys has more."""

MAX_BYTES = 1 << 50

_UNITS = {"m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DEVICE = re.compile(
    r"(?:(?P<count>\d{1,20}) ?[x×*] ?)?(?P<name>[^\W_]\w{0,60}(?:[ ./+-]\w{1,60}){0,20}\+?)"
    r"-(?P<size>\d{1,9}(?:\.\d{1,6})?) ?(?P<unit>[mgt])i?b?",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card: what it is called, and its free bytes."""

    name: str
    free: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Free bytes of main memory (0 where they can't be told), and the graphics cards by their numbers."""

    main: int
    cards: tuple[Card, ...] = ()

    def free(self, device: str) -> int | None:
        """Free bytes of `cpu`, `cuda` or `cuda:1`: 0 for a card that is not there, None where it can't be told."""
        if device.partition(":")[0] == "cuda":
            number = _card_number(device)
            return self.cards[number].free if number < len(self.cards) else 0
        return (self.main or None) if device == MAIN else None

    def name(self, device: str) -> str:
        """What a device is called; "" for one that is not there."""
        if device == MAIN:
            return "main memory"
        number = _card_number(device)
        return self.cards[number].name if device.startswith("cuda") and number < len(self.cards) else ""


def this_machine() -> Machine:
    """What is free here and now. Cards are asked of torch where that is loaded already, else of their makers' tools."""
    torch = sys.modules.get("torch")
    if torch is None:
        return Machine(free_memory(), tuple(_visible_cards()) or tuple(_cards_of_amd()))
    if not torch.cuda.is_available():
        return Machine(free_memory())
    numbers = range(torch.cuda.device_count())
    free = [int(torch.cuda.mem_get_info(number)[0]) for number in numbers]
    return Machine(free_memory(), tuple(Card(torch.cuda.get_device_name(n), free[n]) for n in numbers))


def parse_devices(text: str) -> Machine:
    """The machine that is written down, as "8xA100-40G", "cpu-16G" or "2x3090-24G,cpu-64G".

    G are GiB, 2³⁰ bytes, as makers of cards count them. With cards and no `cpu`, main memory counts as not known.
    Raises ValueError in words.
    """
    main, cards = 0, list[Card]()
    for part in text.split(","):
        count, name, size = _device(part.strip())
        if name.lower() == MAIN:
            if count != 1 or main:
                raise ValueError("cpu stands for main memory, and there is one of it; write cpu-64G once")
            main = size
            continue
        if len(cards) + count > MAX_CARDS:
            raise ValueError(f"{len(cards) + count:,} cards; a machine has {MAX_CARDS} of them at most")
        cards += [Card(name, size)] * count
    return Machine(main, tuple(cards))


def _device(text: str) -> tuple[int, str, int]:
    """How many, what they are called, and bytes of each."""
    found = _DEVICE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no device; write COUNTxNAME-MEMORY, as 8xA100-40G, A100-40G or cpu-64G")
    count = int(found["count"] or 1)
    if not count:
        raise ValueError(f"{text!r}: no card at all; leave it out, or write at least 1")
    size = float(found["size"]) * _UNITS[found["unit"].lower()]
    if not size:
        raise ValueError(f"{text!r}: a device without memory; write how much it has, as 40G")
    if size > MAX_BYTES:
        raise ValueError(f"{text!r}: no device has so much memory; the most is {MAX_BYTES >> 40:,} TiB")
    return count, found["name"], int(size)


def _visible_cards() -> Iterator[Card]:
    """Cards as nvidia-smi tells of them, those that programs may use (CUDA_VISIBLE_DEVICES), in that order."""
    query = ("--query-gpu=index,uuid,memory.free,name", "--format=csv,noheader,nounits")
    found: dict[str, Card] = {}
    for line in output_of("nvidia-smi", *query).splitlines():
        parts = [part.strip() for part in line.split(",", 3)]
        if len(parts) == 4 and parts[2].isdigit():
            found[parts[0]] = found[parts[1]] = Card(parts[3], int(parts[2]) << 20)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        yield from (card for key, card in found.items() if key.isdigit())
        return
    for word in visible.split(","):
        word = word.strip()
        key = next((key for key in found if key == word or (word.startswith("GPU-") and key.startswith(word))), "")
        if not key:  # as CUDA does: what follows one that is not there isn't seen either
            return
        yield found[key]


def _cards_of_amd() -> Iterator[Card]:
    """Cards as rocm-smi tells of them: all and used bytes of each."""
    for line in output_of("rocm-smi", "--showmeminfo", "vram", "--csv").splitlines()[1:]:
        name, *sizes = line.split(",")
        if len(sizes) == 2 and all(size.strip().isdigit() for size in sizes):
            yield Card(f"AMD {name.strip()}", max(0, int(sizes[0]) - int(sizes[1])))


def _card_number(device: str) -> int:
    number = device.partition(":")[2]
    return int(number) if number.isdigit() else 0
