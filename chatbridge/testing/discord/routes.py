"""A route of Discord's REST API, and what its handler gets and gives. Knows no single route."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatbridge.testing.discord.interactions import Interactions
from chatbridge.testing.discord.state import Bot, Json, Refusal, World
from chatbridge.testing.wire.forms import Upload

MAJOR = ("channel", "guild", "webhook", "token")
"""The parameters of paths that limits are counted by."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, taken apart. `ids` has the parameters of the path by name; `bot` is who signed it, if someone did."""

    world: World
    interactions: Interactions
    ids: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    files: Sequence[Upload]
    signed: Bot | None

    @property
    def bot(self) -> Bot:
        """Who called, or refusal 401."""
        if self.signed is None:
            raise Refusal(401, 0, "401: Unauthorized")
        return self.signed


@dataclass(frozen=True, slots=True)
class RouteResult:
    """A status, and JSON unless `json` is None."""

    status: int
    json: Any


@dataclass(frozen=True, slots=True)
class Route:
    """`path` has its parameters in braces. `of_messages`: counted by the limit of messages. `exempt`: not overall."""

    method: str
    path: str
    handle: Callable[[Asked], Json | list[Json] | RouteResult | None]
    of_messages: bool = False
    exempt: bool = False
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path)
        object.__setattr__(self, "pattern", re.compile(pattern + "$"))

    def place(self, ids: Mapping[str, str]) -> str:
        """What its limit is counted for."""
        return " ".join(ids[name] for name in MAJOR if name in ids)
