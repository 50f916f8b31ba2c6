"""How often a bot may call: Telegram's flood control, whose penalties grow when they are not kept. Knows no method."""

from __future__ import annotations

import math
from dataclasses import dataclass

from chatbridge.testing.telegram.state import Refusal
from chatbridge.testing.wire.clock import Clock


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls at once, and so many per second on and on."""

    burst: int
    per_second: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a stand-in Telegram. It publishes only what bots `should` keep; penalties are as bots met them."""

    private: Rate = Rate(4, 1)
    """Messages, and edits, in one private chat."""
    group: Rate = Rate(20, 20 / 60)
    """The same in one group."""
    drafts: Rate = Rate(20, 5)
    """Drafts and chat actions, in one chat."""
    overall: Rate = Rate(30, 30)
    """Everything of one bot."""
    penalty: float = 5
    """Seconds of the first penalty; calls inside it double it."""
    longest: float = 3600
    query_seconds: float = 60
    """In how long the press of a button must be answered."""

    @classmethod
    def generous(cls) -> Limits:
        """Limits that no test reaches unless it means to: for tests of something else."""
        much = Rate(100_000, 100_000)
        return cls(private=much, group=much, drafts=much, overall=much)


@dataclass(slots=True, eq=False)
class Gauge:
    """What one limit is counted in, and its penalty: its length, its end, and whether its bot was told of it."""

    rate: Rate
    left: float
    at: float
    length: float = 0
    until: float = 0
    told: bool = False

    def fits(self, now: float) -> bool:
        """Whether one more call is allowed."""
        self.left = min(self.rate.burst, self.left + (now - self.at) * self.rate.per_second)
        self.at = now
        return self.left >= 1


class Limiter:
    """Counts the calls of every bot, by chat and in all."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock, self._limits = clock, limits
        self._gauges: dict[tuple[str, str], Gauge] = {}

    def gauges(self, bot: str, chat: str, *, lightly: bool = False) -> list[Gauge]:
        """What a call counts in: the bot, its chat ("": none), and, where it counts `lightly`, what is just a sign."""
        limits = self._limits
        counted = [("", limits.overall)]
        if chat:
            counted.append((chat, limits.group if chat.startswith(("-", "@")) else limits.private))
            counted += [(f"{chat} drafts", limits.drafts)] * lightly
        now = self._clock()
        return [self._gauges.setdefault((bot, key), Gauge(rate, rate.burst, now)) for key, rate in counted]

    def is_early(self, gauges: list[Gauge]) -> bool:
        """Whether a call comes inside a penalty that its bot was told of."""
        now = self._clock()
        return any(gauge.told and now < gauge.until for gauge in gauges)

    def take(self, gauges: list[Gauge], *, lightly: bool = False) -> None:
        """Count a call, or raise 429; one inside a penalty that its bot was told of doubles it."""
        now = self._clock()
        for gauge in gauges:
            if now < gauge.until:
                longer = min(gauge.length * 2, self._limits.longest)
                raise self.penalise(gauge, longer if gauge.told else gauge.until - now)
        counted = [gauge for index, gauge in enumerate(gauges) if not (lightly and index == 1)]
        for gauge in counted:
            if not gauge.fits(now):
                raise self.penalise(gauge, self._limits.penalty)
        for gauge in counted:
            gauge.left -= 1

    def penalise(self, gauge: Gauge, seconds: float) -> Refusal:
        """Refuse every call that counts here for so long."""
        gauge.length, gauge.until, gauge.told = seconds, self._clock() + seconds, False
        return flooded(seconds)

    def tell(self, gauges: list[Gauge]) -> None:
        """The bot has been answered 429: from now on it knows of its penalties."""
        for gauge in gauges:
            gauge.told = gauge.told or gauge.until > self._clock()


def flooded(seconds: float | None) -> Refusal:
    """429, with the whole seconds to wait, or without."""
    if seconds is None:
        return Refusal(429, "Too Many Requests: retry later")
    wait = math.ceil(seconds)
    return Refusal(429, f"Too Many Requests: retry after {wait}", {"retry_after": wait})
