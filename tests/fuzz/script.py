"""What happens in a run, as plain values: drawn from a seed, printed, replayed, cut in half. Knows no service."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from . import words

PEOPLE, ROOMS = 8, 19
"""On each service. People 0 are admins; the last two are let in by pairing where that is on."""

KINDS = {
    "say": 60, "mention": 14, "reply": 10, "command": 10, "alias": 2, "prefix": 2, "file": 4, "edit": 4, "touch": 1,
    "delete": 3, "react": 2, "press": 8, "slash": 3, "menu": 1, "suggest": 1, "forward": 2, "thread": 1, "behind": 1,
    "pair": 1,
}  # fmt: skip
"""How often each kind of event is drawn."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that somebody does. `pick`: which message, button or file is meant, of those that are there."""

    kind: str
    service: str
    room: int
    person: int
    text: str = ""
    pick: int = 0
    repeat: int = 1
    """How often the text of a file is repeated."""


def drawn(rng: random.Random, count: int) -> list[Event]:
    """So many events."""
    return [_event(rng) for _ in range(count)]


def _event(rng: random.Random) -> Event:
    (kind,) = rng.choices([*KINDS], [*KINDS.values()])
    service = rng.choice(("discord", "telegram"))
    most = 1900 if service == "discord" else 4000
    room, person, pick = rng.randrange(ROOMS), rng.randrange(PEOPLE), rng.randrange(1 << 16)
    said, repeat = "", 1
    if kind in ("say", "mention", "reply", "edit", "thread", "behind"):
        said = words.text(rng, most)
    elif kind in ("command", "slash", "suggest"):
        said = words.cut(words.command(rng), most)
    elif kind == "alias":
        said = rng.choice(("+new", "+NEW", "重来", "+new x"))
    elif kind == "prefix":
        said = "!" + rng.choice(("", " ", words.text(rng, 100)))
    elif kind == "file":
        said = words.text(rng, most // 4 - 1) if rng.random() < 0.5 else ""
        repeat = rng.choice((1, 1, 10, 50, 80))
    return Event(kind, service, room, person, said, pick, repeat)


def written(events: Iterable[Event]) -> str:
    """Events as lines of JSON, in ASCII."""
    return "".join(json.dumps(asdict(event)) + "\n" for event in events)


def read(path: Path) -> list[Event]:
    """The events of such lines."""
    return [Event(**json.loads(line)) for line in path.read_text(encoding="ascii").splitlines() if line.strip()]


def halves(events: Sequence[Event], parts: int) -> Iterable[list[Event]]:
    """The events without one of so many parts, each in turn."""
    size = -(-len(events) // parts)
    for start in range(0, len(events), size):
        yield [*events[:start], *events[start + size :]]
