"""How often a bot may call: Discord's buckets, its global limit, and the headers that tell of them. Knows no route."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from dataclasses import dataclass

from chatbridge.testing.discord.state import Json
from chatbridge.testing.wire.clock import Clock


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls in so many seconds."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a stand-in Discord. Rates that Discord does not publish are those that bots have measured."""

    messages: Rate = Rate(5, 5)
    """Sending, editing and typing: each by itself, in one channel, or with the token of one interaction."""
    others: Rate = Rate(50, 1)
    """Every other route, for one channel or guild."""
    overall: Rate = Rate(50, 1)
    """All calls of one bot but the first answers to interactions."""
    invalid: Rate = Rate(10_000, 600)
    """Answers 401, 403 and 429, after which the address is banned."""
    first_answer: float = 3
    """Seconds in which an interaction must be answered."""
    later_answers: float = 900
    """Seconds in which more answers may follow."""

    @classmethod
    def generous(cls) -> Limits:
        """Limits that no test reaches unless it means to: for tests of something else."""
        return cls(messages=Rate(10_000, 1), others=Rate(10_000, 1), overall=Rate(100_000, 1))


@dataclass(slots=True)
class _Window:
    rate: Rate
    ends: float = 0
    left: int = 0

    def take(self, now: float) -> float:
        """Count a call: 0 where it fits, else the seconds until one does."""
        if now >= self.ends:
            self.ends, self.left = now + self.rate.seconds, self.rate.calls
        if self.left == 0:
            return self.ends - now
        self.left -= 1
        return 0


@dataclass(slots=True, eq=False)
class Bucket:
    """What one limit is counted for. `told`: until when its bot knows that it must wait."""

    name: str
    window: _Window
    told: float = 0
    blocked: float = 0
    scope: str = "user"


@dataclass(frozen=True, slots=True)
class TooMany:
    """An answer 429. `scope`: `user`, `shared` or `global`; `via`: whether it comes from Discord, not from a proxy."""

    retry_after: float
    scope: str = "user"

    @property
    def body(self) -> Json:
        return {
            "message": "You are being rate limited.",
            "retry_after": _up(self.retry_after),
            "global": self.scope == "global",
        }


class Limiter:
    """Counts the calls of every bot."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._overall: dict[str, Bucket] = {}
        self._invalid: deque[float] = deque()

    def bucket(self, bot: str, route: str, place: str, *, of_messages: bool) -> Bucket:
        """The bucket of a route for one place: a channel, a guild or a token."""
        rate = self._limits.messages if of_messages else self._limits.others
        name = hashlib.sha256(route.encode()).hexdigest()[:32]
        return self._buckets.setdefault((bot, f"{route} {place}"), Bucket(name, _Window(rate)))

    def overall(self, bot: str) -> Bucket:
        """What the global limit is counted in."""
        return self._overall.setdefault(bot, Bucket("global", _Window(self._limits.overall), scope="global"))

    def is_early(self, bot: str, bucket: Bucket, *, exempt: bool) -> bool:
        """Whether a call comes while its bot has been told to wait."""
        now = self._clock()
        return now < bucket.told or (not exempt and now < self.overall(bot).told)

    def take(self, bot: str, bucket: Bucket, *, exempt: bool) -> TooMany | None:
        """Count a call, `exempt` from the global limit or not; None where it may go on."""
        now = self._clock()
        for counted in (bucket,) if exempt else (self.overall(bot), bucket):
            if now < counted.blocked:
                return TooMany(counted.blocked - now, counted.scope)
            if wait := counted.window.take(now):
                return TooMany(wait, "global" if counted.scope == "global" else "user")
        return None

    def block(self, bucket: Bucket, seconds: float, scope: str) -> TooMany:
        """Refuse all calls to a bucket for so long."""
        bucket.blocked, bucket.scope = self._clock() + seconds, scope
        return TooMany(seconds, scope)

    def headers(self, bucket: Bucket) -> dict[str, str]:
        """What every answer tells of its bucket."""
        window, now = bucket.window, self._clock()
        ends = max(window.ends, bucket.blocked)
        return {
            "X-RateLimit-Limit": str(window.rate.calls),
            "X-RateLimit-Remaining": str(0 if now < bucket.blocked else window.left),
            "X-RateLimit-Reset": f"{_up(ends):.3f}",
            "X-RateLimit-Reset-After": f"{_up(max(0.0, ends - now)):.3f}",
            "X-RateLimit-Bucket": bucket.name,
        }

    def told(self, bot: str, bucket: Bucket, too_many: TooMany | None) -> None:
        """An answer with these headers has gone out: from now on the bot knows."""
        now = self._clock()
        if too_many is not None and too_many.scope == "global":
            self.overall(bot).told = now + too_many.retry_after
        elif too_many is not None:
            bucket.told = now + too_many.retry_after
        elif bucket.window.left == 0:
            bucket.told = bucket.window.ends

    def invalid(self) -> bool:
        """Count an answer 401, 403 or 429; whether the address is now banned."""
        self._invalid.append(self._clock())
        return self.banned()

    def banned(self) -> bool:
        """Whether there were too many invalid answers of late."""
        now, rate = self._clock(), self._limits.invalid
        while self._invalid and self._invalid[0] <= now - rate.seconds:
            self._invalid.popleft()
        return len(self._invalid) > rate.calls


def _up(seconds: float) -> float:
    """In whole milliseconds, never too few, so that who waits as long as told is not too early."""
    return math.ceil(seconds * 1000 - 1e-3) / 1000
