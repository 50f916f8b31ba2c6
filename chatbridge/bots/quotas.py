"""What one person may ask of a bot: so many messages a minute, so many tokens a day. Knows no model and no chat.

Tokens are reserved before an answer and settled after it, so that many questions at once pass no limit. A reservation
lives in memory, as long as the reply that holds it: one that comes to nothing, by whatever way, is given back; after
a restart what goes on reserves anew.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from chatbridge.config.settings import ChannelSettings, Quota
from chatbridge.store import UsageLog
from chatbridge.types import Author, Message, Press, Usage

if TYPE_CHECKING:
    from chatbridge.engine.backend import Request

MINUTE = 60.0

BYTES_PER_TOKEN = 3
"""What a token is worth at least, for most tokenizers and texts; a reservation is a guess."""


@dataclass(frozen=True, slots=True)
class QuotaExceeded:
    """A limit that was reached. `kind` is its key in bots.yaml, or "tokens_reserved" where answers that are under way
    may use up what is left; `seconds` until there is room again.

    `told`: the person was told of this very one before.
    """

    kind: str
    limit: int
    seconds: float
    told: bool


@dataclass(slots=True, eq=False, weakref_slot=True)
class Reservation:
    """Tokens that an answer to somebody may cost; whoever holds it last gives it back."""

    tokens: int

    def raise_for(self, request: Request) -> None:
        """What is to be read is known now, but for what is cached."""
        if self.tokens:
            read = sum(token_guess(turn.text) for turn in request.turns)
            self.tokens = max(self.tokens, request.sampling.max_tokens + read)


class Quotas:
    """One bot's. `clock` gives seconds since the epoch, and a day ends at this machine's midnight; `monotonic` gives
    seconds that never go back, whatever is done to the clock."""

    def __init__(self, bot: str, usage: UsageLog, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._bot = bot
        self._usage = usage
        self._clock = clock
        self._monotonic = monotonic
        self._asked: dict[str, list[float]] = {}
        """When each person asked in the last minute; whoever was silent for longer is forgotten."""
        self._told: dict[tuple[str, str], float] = {}
        self._reserved: dict[str, weakref.WeakSet[Reservation]] = {}
        self._settling = asyncio.Lock()
        """Held while what is used and what is reserved are compared or change together."""
        self._day = ""

    async def reserve(self, author: Author, quota: Quota, tokens: int) -> Reservation | QuotaExceeded:
        """Count one more message of that person, and reserve `tokens` for its answer, or what is left of the day.

        Or else the limit that it would exceed.
        """
        if quota.tokens_per_day is None:
            return self._count(author, quota) or Reservation(0)
        async with self._settling:
            left = quota.tokens_per_day - await self._used(author)
            if left <= 0:
                until = seconds_to_midnight(self._clock())
                return self._exceeded("tokens_per_day", author, quota.tokens_per_day, until)
            left -= self.reserved(author)
            if left <= 0:
                return self._exceeded("tokens_reserved", author, quota.tokens_per_day)
            if (exceeded := self._count(author, quota)) is not None:
                return exceeded
            return self._hold(author, min(tokens, left))

    def take(self, author: Author, tokens: int) -> Reservation:
        """Reserve without a question: what was admitted before the program ended, and goes on."""
        return self._hold(author, tokens)

    def reserved(self, author: Author) -> int:
        """How many tokens answers to that person may cost that are under way."""
        return sum(one.tokens for one in self._reserved.get(author.id, ()))

    async def settle(self, author: Author, usage: Usage, reservation: Reservation | None = None) -> None:
        """Count what an answer has cost, the tokens that the model read and wrote for it, in place of what was
        reserved."""
        async with self._settling:
            await self._bring_back()
            await self._usage.add(self._bot, author, day_of(self._clock()), usage.read + usage.generated)
            if reservation is not None:
                reservation.tokens = 0

    def _hold(self, author: Author, tokens: int) -> Reservation:
        for user in [user for user, held in self._reserved.items() if not held]:
            del self._reserved[user]
        reservation = Reservation(tokens)
        self._reserved.setdefault(author.id, weakref.WeakSet()).add(reservation)
        return reservation

    async def _used(self, author: Author) -> int:
        await self._bring_back()
        return await self._usage.tokens(self._bot, author.id, day_of(self._clock()))

    async def _bring_back(self) -> None:
        """Where the clock was set back, what was used in days to come counts as used today, and in these not."""
        if (day := day_of(self._clock())) == self._day:
            return
        await self._usage.bring_back(self._bot, day)
        self._day = day

    def _count(self, author: Author, quota: Quota) -> QuotaExceeded | None:
        limit, now = quota.messages_per_minute, self._monotonic()
        if limit is None:
            return None
        recent = {user: [at for at in times if at + MINUTE - now > 0] for user, times in self._asked.items()}
        self._asked = {user: times for user, times in recent.items() if times}
        times = self._asked.setdefault(author.id, [])
        if len(times) >= limit:
            return self._exceeded("messages_per_minute", author, limit, times[-limit] + MINUTE - now)
        times.append(now)
        return None

    def _exceeded(self, kind: str, author: Author, limit: int, seconds: float = 0.0) -> QuotaExceeded:
        now = self._monotonic()
        self._told = {key: until for key, until in self._told.items() if until > now}
        told = (kind, author.id) in self._told
        self._told.setdefault((kind, author.id), now + max(seconds, 1.0))
        # Rounded first: 60 seconds from now are a little more or less in floating point, and no 61 to anybody.
        return QuotaExceeded(kind, limit, max(1, math.ceil(round(seconds, 3))), told)


def token_guess(text: str) -> int:
    """About how many tokens a text is."""
    return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN


def estimate(asked: Message | Press, settings: ChannelSettings, read_again: int) -> int:
    """The tokens that an answer may cost: its limit, and what is to be read for it, as far as that can be guessed.

    `read_again`: tokens of the conversation so far.
    """
    read = read_again + token_guess(settings.system or "")
    if isinstance(asked, Message):
        read += token_guess(asked.text) + sum(len(file.data) for file in asked.attachments) // BYTES_PER_TOKEN
    return settings.sampling.max_tokens + read


def day_of(time: float) -> str:
    """The date of a time, where this machine is."""
    return f"{datetime.fromtimestamp(time):%Y-%m-%d}"


def seconds_to_midnight(time: float) -> float:
    """How long a day lasts from that time on, where this machine is."""
    day = datetime.fromtimestamp(time).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day + timedelta(days=1)).timestamp() - time
