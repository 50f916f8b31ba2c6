"""How people who were not let in yet learn by which code an admin can do so: seldom, and not too many of them.

Knows pairings and what bots.yaml allows strangers; decides nobody's rights.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from chatbridge.bots.reply import Notice
from chatbridge.config.settings import Strangers
from chatbridge.store import Pairings
from chatbridge.texts import say
from chatbridge.types import Author

log = logging.getLogger(__name__)

MINUTE = 60.0


class StrangerNotices:
    """One bot's. `clock` gives seconds since the epoch, `monotonic` seconds that never go back."""

    def __init__(
        self, bot: str, pairings: Pairings, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._bot = bot
        self._pairings = pairings
        self._clock = clock
        self._monotonic = monotonic
        self._told: dict[str, float] = {}
        """When each person was told; as many as `notices_per_minute` lets be told in `remind_minutes`."""
        self._recent: deque[float] = deque()
        self._flooded = -MINUTE

    async def notice(self, author: Author, language: str, limits: Strangers) -> Notice | None:
        """What to say to somebody who is not let in; None where they know already, or too many ask at once."""
        now = self._monotonic()
        self._told = {user: at for user, at in self._told.items() if at > now - MINUTE * limits.remind_minutes}
        if author.id in self._told:
            return None
        while self._recent and self._recent[0] <= now - MINUTE:
            self._recent.popleft()
        if len(self._recent) >= limits.notices_per_minute:
            if now - self._flooded >= MINUTE:
                self._flooded = now
                log.warning("bot %s: too many strangers write; some are not told how to be let in", self._bot)
            return None
        self._recent.append(now)
        self._told[author.id] = now
        pairing = await self._pairings.request(
            self._bot, author, valid_days=limits.code_days, max_open=limits.open_codes, now=self._clock()
        )
        if pairing is None:
            return Notice(say(language, "pairing_full"))
        return Notice(say(language, "pairing", code=pairing.code))

    def forget(self, user: str) -> None:
        """Tell that person again: an admin has let them in no longer."""
        self._told.pop(user, None)
