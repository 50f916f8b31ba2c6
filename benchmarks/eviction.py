"""Which kept state should go when memory is full: policies beside one another, on made-up and on recorded traffic.

Each request is a room that goes on: its whole history is read, but for what a kept state has read before; then the
state is kept, as long as the history is by now, and others go until all fit. The figure is the share of all tokens
that had not to be read again. `best` knows the future (Belady 1966) and is what nobody can do better; `interval` is
what chatbridge does, with the very code that it runs. The states have room for a quarter to a half of what the rooms
want, as written beside each traffic.

    python benchmarks/eviction.py [--trace FILE] [--seeds 5] [--svg eviction.svg]

A trace has one request a line: a room's name, and how many tokens its prompt and answer add.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Protocol

from chatbridge.engine.eviction import Use, Uses

Traffic = Sequence[tuple[int, int]]
"""Of each request, its room and how many tokens it adds."""

CONTEXT = 4096
"""Tokens of a history at which its older half is dropped: its state then serves nobody."""


class Policy(Protocol):
    """Told of every request; asked which room's state is to go."""

    def used(self, room: int, size: int, *, hit: bool) -> None: ...

    def victim(self) -> int: ...

    def gone(self, room: int) -> None: ...


@dataclass
class Ordered:
    """The rooms whose states are kept, in the order of their last use."""

    kept: OrderedDict[int, int] = field(default_factory=OrderedDict)

    def used(self, room: int, size: int, *, hit: bool) -> None:
        self.kept[room] = size
        self.kept.move_to_end(room)

    def gone(self, room: int) -> None:
        del self.kept[room]


class LeastRecent(Ordered):
    def victim(self) -> int:
        return next(iter(self.kept))


class MostRecent(Ordered):
    """All but the newest, which has to fit: the one before it."""

    def victim(self) -> int:
        newest = reversed(self.kept)
        first = next(newest)
        return next(newest, first)


class FirstIn(Ordered):
    def used(self, room: int, size: int, *, hit: bool) -> None:
        self.kept[room] = size

    def victim(self) -> int:
        return next(iter(self.kept))


@dataclass
class AtRandom(Ordered):
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def victim(self) -> int:
        return self.rng.choice([*self.kept])


@dataclass
class LastButOne(Ordered):
    """LRU-2 (O'Neil 1993): whose use before the last is longest ago; those used once go first."""

    now: int = 0
    uses: dict[int, tuple[int, int]] = field(default_factory=dict)

    def used(self, room: int, size: int, *, hit: bool) -> None:
        super().used(room, size, hit=hit)
        self.now += 1
        self.uses[room] = (self.uses.get(room, (-1, -1))[1], self.now)

    def victim(self) -> int:
        return min(self.kept, key=lambda room: self.uses[room])


@dataclass
class DualSize(Ordered):
    """GDSF (Cherkasova 1998): how often, by size; a reading costs as much as the state is large, so size drops out."""

    age: float = 0.0
    scores: dict[int, tuple[float, int]] = field(default_factory=dict)

    def used(self, room: int, size: int, *, hit: bool) -> None:
        super().used(room, size, hit=hit)
        count = self.scores.get(room, (0.0, 0))[1] + 1 if hit else 1
        self.scores[room] = self.age + count, count

    def victim(self) -> int:
        room = min(self.kept, key=lambda room: self.scores[room])
        self.age = self.scores[room][0]
        return room


@dataclass
class TwoQueues(Ordered):
    """S3-FIFO (Yang 2023): a tenth for newcomers; who comes again, there or within memory, gets into the main queue."""

    small: OrderedDict[int, int] = field(default_factory=OrderedDict)
    main: OrderedDict[int, int] = field(default_factory=OrderedDict)
    ghosts: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def used(self, room: int, size: int, *, hit: bool) -> None:
        super().used(room, size, hit=hit)
        for queue in (self.small, self.main):
            if room in queue:
                queue[room] = min(3, queue[room] + 1)
                return
        (self.main if room in self.ghosts else self.small)[room] = 0
        self.ghosts.pop(room, None)

    def victim(self) -> int:
        while True:
            if self.small and (len(self.small) * 10 >= len(self.kept) or not self.main):
                room, count = self.small.popitem(last=False)
                if count:
                    self.main[room] = 0
                    continue
                self.ghosts[room] = None
                if len(self.ghosts) > len(self.kept):
                    self.ghosts.popitem(last=False)
            else:
                room, count = self.main.popitem(last=False)
                if count:
                    self.main[room] = count - 1
                    continue
            return room

    def gone(self, room: int) -> None:
        super().gone(room)
        self.small.pop(room, None)
        self.main.pop(room, None)


@dataclass
class ByInterval(Ordered):
    """chatbridge's own."""

    uses: Uses = field(default_factory=Uses)
    last: dict[int, Use] = field(default_factory=dict)

    def used(self, room: int, size: int, *, hit: bool) -> None:
        super().used(room, size, hit=hit)
        self.last[room] = self.uses.use([room], room)

    def victim(self) -> int:
        return max(self.kept, key=lambda room: self.uses.remaining(self.last[room]))


@dataclass
class Clairvoyant(Ordered):
    """Whose next use is farthest away."""

    traffic: Traffic = ()
    now: int = 0
    nexts: list[int] = field(default_factory=list)
    next_of: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: dict[int, int] = {}
        self.nexts = [0] * len(self.traffic)
        for at in reversed(range(len(self.traffic))):
            room = self.traffic[at][0]
            self.nexts[at] = seen.get(room, 1 << 60)
            seen[room] = at

    def used(self, room: int, size: int, *, hit: bool) -> None:
        super().used(room, size, hit=hit)
        self.next_of[room] = self.nexts[self.now]
        self.now += 1

    def victim(self) -> int:
        return max(self.kept, key=lambda room: self.next_of[room])


POLICIES: Mapping[str, Callable[[Traffic], Policy]] = {
    "least recent": lambda traffic: LeastRecent(),
    "most recent": lambda traffic: MostRecent(),
    "first in": lambda traffic: FirstIn(),
    "random": lambda traffic: AtRandom(),
    "LRU-2": lambda traffic: LastButOne(),
    "GDSF": lambda traffic: DualSize(),
    "S3-FIFO": lambda traffic: TwoQueues(),
    "interval": lambda traffic: ByInterval(),
    "best": lambda traffic: Clairvoyant(traffic=traffic),
}


def reused(traffic: Traffic, capacity: int, policy: Policy) -> float:
    """The share of all tokens of prompts that kept states had read, where states may have `capacity` tokens."""
    lengths: dict[int, int] = {}
    kept: dict[int, int] = {}
    total = saved = 0
    for room, added in traffic:
        length = lengths.get(room, 0)
        if length + added > CONTEXT:
            # The prompt begins anew, so the old state is of no use, and makes room.
            length //= 2
            if kept.pop(room, 0):
                policy.gone(room)
        total += length + added
        saved += kept.get(room, 0)
        hit = room in kept
        lengths[room] = kept[room] = length + added
        policy.used(room, kept[room], hit=hit)
        while sum(kept.values()) > capacity:
            victim = policy.victim()
            del kept[victim]
            policy.gone(victim)
    return saved / total


def rounds(rng: random.Random) -> tuple[Traffic, int]:
    """64 rooms one after another, again and again, always in the same order."""
    return [(room, 40) for _ in range(40) for room in range(64)], 64 * 800 // 2


def shuffled(rng: random.Random) -> tuple[Traffic, int]:
    """64 rooms in an order that is drawn anew for each round."""
    found = []
    for _ in range(40):
        order = rng.sample(range(64), 64)
        found += [(room, 40) for room in order]
    return found, 64 * 800 // 2


def zipf(rng: random.Random) -> tuple[Traffic, int]:
    """200 rooms, of which a few say most."""
    weights = [1 / (rank + 1) for rank in range(200)]
    drawn = rng.choices(range(200), weights, k=6000)
    return [(room, rng.randrange(20, 120)) for room in drawn], 60_000


def bursts(rng: random.Random) -> tuple[Traffic, int]:
    """Rooms that talk for a while, four at a time, and are then silent for long."""
    found: list[tuple[int, int]] = []
    talking = rng.sample(range(150), 4)
    for _ in range(6000):
        if rng.random() < 0.06:
            talking[rng.randrange(4)] = rng.randrange(150)
        found.append((rng.choice(talking), rng.randrange(20, 120)))
    return found, 40_000


def passing(rng: random.Random) -> tuple[Traffic, int]:
    """20 rooms that go on, among as many people again who ask one thing and are gone."""
    found, strangers = [], 1000
    for _ in range(5000):
        if rng.random() < 0.5:
            strangers += 1
            found.append((strangers, rng.randrange(200, 800)))
        else:
            found.append((rng.randrange(20), rng.randrange(20, 120)))
    return found, 20_000


def day(rng: random.Random) -> tuple[Traffic, int]:
    """A day: a few busy rooms at all hours, an evening of many, a bot that asks each room in turn every hour."""
    found: list[tuple[int, int]] = []
    for hour in range(24):
        evening = 3 if 17 <= hour < 23 else 1
        busy = rng.choices(range(8), [8, 6, 5, 4, 3, 2, 1, 1], k=60 * evening)
        guests = [rng.randrange(8, 30 + 40 * evening) for _ in range(50 * evening)]
        hour_of = [*busy, *guests]
        rng.shuffle(hour_of)
        found += [(room, rng.randrange(20, 150)) for room in hour_of]
        found += [(200 + room, 60) for room in range(20)]
    return found, 50_000


TRAFFIC: Mapping[str, Callable[[random.Random], tuple[Traffic, int]]] = {
    "rounds of 64": rounds,
    "shuffled rounds": shuffled,
    "Zipf": zipf,
    "bursts": bursts,
    "passers-by": passing,
    "a day": day,
}


def recorded(path: Path) -> tuple[Traffic, int]:
    """What a trace holds; states have room for a third of what its rooms come to."""
    numbers: dict[str, int] = {}
    found = []
    for line in path.read_text().splitlines():
        name, _, tokens = line.rpartition(" ")
        found.append((numbers.setdefault(name, len(numbers)), int(tokens)))
    sizes: dict[int, int] = {}
    for room, added in found:
        sizes[room] = min(CONTEXT, sizes.get(room, 0) + added)
    return found, sum(sizes.values()) // 3


def measure(seeds: int, trace: Path | None) -> Iterator[tuple[str, dict[str, float]]]:
    """For each traffic, what each policy reused: the mean over the seeds."""
    makers = dict(TRAFFIC)
    if trace is not None:
        makers[trace.name] = lambda rng: recorded(trace)
    for name, make in makers.items():
        shares: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        for seed in range(seeds):
            traffic, capacity = make(random.Random(seed))
            for policy, begin in POLICIES.items():
                shares[policy].append(reused(traffic, capacity, begin(traffic)))
        yield name, {policy: statistics.mean(found) for policy, found in shares.items()}


def svg(table: Mapping[str, Mapping[str, float]]) -> str:
    """The table as bars, one group for each traffic."""
    bar, gap, height = 11, 26, 220
    group = bar * len(POLICIES) + gap
    width = group * len(table) + 60
    colours = ("#999", "#bbb", "#ccc", "#dda", "#8ab", "#a8b", "#ba8", "#2a6", "#234")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + 70}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = 10 + height * (1 - share)
        parts.append(f'<path d="M40 {y}H{width}" stroke="#ddd"/><text x="8" y="{y + 4}">{share:.0%}</text>')
    for number, (name, shares) in enumerate(table.items()):
        left = 46 + number * group
        for place, (policy, share) in enumerate(shares.items()):
            parts.append(
                f'<rect x="{left + place * bar}" y="{10 + height * (1 - share):.1f}" width="{bar - 2}" '
                f'height="{height * share:.1f}" fill="{colours[place]}"><title>{policy} {share:.1%}</title></rect>'
            )
        parts.append(f'<text x="{left}" y="{height + 26}">{escape(name)}</text>')
    for place, policy in enumerate(POLICIES):
        x = 46 + place * 88
        parts.append(f'<rect x="{x}" y="{height + 44}" width="9" height="9" fill="{colours[place]}"/>')
        parts.append(f'<text x="{x + 13}" y="{height + 53}">{policy}</text>')
    return "".join((*parts, "</svg>\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="recorded traffic, besides the made-up one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--svg", type=Path, default=Path("eviction.svg"))
    options = parser.parse_args()
    table = {}
    print(f"{'tokens reused':<18}" + "".join(f"{policy:>14}" for policy in POLICIES))
    for name, shares in measure(options.seeds, options.trace):
        table[name] = shares
        print(f"{name:<18}" + "".join(f"{share:>14.1%}" for share in shares.values()), flush=True)
    options.svg.write_text(svg(table), encoding="utf-8")
    print(f"\nplotted in {options.svg}")


if __name__ == "__main__":
    main()
