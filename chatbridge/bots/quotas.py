"""What one person may ask of a bot: so many messages a minute, so many tokens a day. Knows no model and no chat."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from chatbridge.config.settings import Quota
from chatbridge.store import UsageLog
from chatbridge.types import Author, Usage

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class QuotaExceeded:
    """A limit that was reached. `kind` is its key in bots.yaml; `seconds` until there is room again.

    `told`: the person was told of this very one before.
    """

    kind: str
    limit: int
    seconds: float
    told: bool


class Quotas:
    """One bot's. `clock` gives seconds since the epoch; a day ends at this machine's midnight."""

    def __init__(self, bot: str, usage: UsageLog, clock: Callable[[], float]) -> None:
        self._bot = bot
        self._usage = usage
        self._clock = clock
        self._asked: dict[str, deque[float]] = {}
        self._told: dict[tuple[str, str], float] = {}

    async def admit(self, author: Author, quota: Quota) -> QuotaExceeded | None:
        """Count one more message of that person; or the limit that it would exceed."""
        now = self._clock()
        if quota.tokens_per_day is not None:
            spent = await self._usage.tokens(self._bot, author.id, day_of(now))
            if spent >= quota.tokens_per_day:
                return self._exceeded("tokens_per_day", author, quota.tokens_per_day, _midnight_after(now), now)
        if quota.messages_per_minute is not None:
            times = self._recent(author.id, now)
            if len(times) >= quota.messages_per_minute:
                free = times[-quota.messages_per_minute] + MINUTE
                return self._exceeded("messages_per_minute", author, quota.messages_per_minute, free, now)
            times.append(now)
        return None

    async def charge(self, author: Author, usage: Usage) -> None:
        """Count what an answer has cost: the tokens that the model read and wrote for it."""
        await self._usage.add(self._bot, author, day_of(self._clock()), usage.read + usage.generated)

    def _recent(self, user: str, now: float) -> deque[float]:
        """When that person asked in the last minute; whoever was silent for longer is forgotten."""
        for other in [user for user, times in self._asked.items() if times and times[-1] <= now - MINUTE]:
            del self._asked[other]
        times = self._asked.setdefault(user, deque())
        while times and times[0] <= now - MINUTE:
            times.popleft()
        return times

    def _exceeded(self, kind: str, author: Author, limit: int, free: float, now: float) -> QuotaExceeded:
        self._told = {key: until for key, until in self._told.items() if until > now}
        told = (kind, author.id) in self._told
        self._told.setdefault((kind, author.id), free)
        return QuotaExceeded(kind, limit, math.ceil(free - now), told)


def day_of(time: float) -> str:
    """The date of a time, where this machine is."""
    return f"{datetime.fromtimestamp(time):%Y-%m-%d}"


def _midnight_after(time: float) -> float:
    day = datetime.fromtimestamp(time).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day + timedelta(days=1)).timestamp()
