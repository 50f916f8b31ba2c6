"""Who may ask a bot: by bots.yaml, by pairing, and within the quotas. Knows no message's words and no model."""

from __future__ import annotations

from collections.abc import Callable

from chatbridge.bots.quotas import Quotas
from chatbridge.bots.reply import Notice
from chatbridge.config.settings import BotSettings, Quota
from chatbridge.store import Pairings, Store, UsageLog
from chatbridge.texts import duration, say
from chatbridge.types import Author, Channel


class Permissions:
    """One bot's. `pairings`: who was let in by an admin. `usage`: what each person's answers have cost.

    `find_settings`: the bot's entry in bots.yaml as it is now, if it has one. `clock` gives seconds since the epoch.
    """

    def __init__(
        self, bot: str, find_settings: Callable[[], BotSettings | None], store: Store, clock: Callable[[], float]
    ) -> None:
        self.pairings = Pairings(store)
        self.usage = UsageLog(store)
        self.quotas = Quotas(bot, self.usage, clock)
        self._bot = bot
        self._find_settings = find_settings

    async def permits(self, author: Author, channel: Channel) -> bool:
        """Whether the bot listens to that person in that place."""
        own = self._find_settings()
        if own is None or own.permits(author, channel):
            return True
        if not own.pairing or not own.permits(author, channel, paired=True):
            return False
        return await self.pairings.paired(self._bot, author.id)

    def is_admin(self, author: Author) -> bool:
        """Whether that person may give admin commands."""
        own = self._find_settings()
        return own is not None and own.admins.names(author)

    async def pairing_notice(self, author: Author, channel: Channel, language: str) -> Notice | None:
        """The code by which an admin can let that person in; None where that is not possible."""
        own = self._find_settings()
        if own is None or not own.pairing or author.is_bot or not own.permits(author, channel, paired=True):
            return None
        pairing = await self.pairings.request(self._bot, author)
        return Notice(say(language, "pairing", code=pairing.code))

    async def quota_notice(self, author: Author, language: str, *, repeat: bool = False) -> str | None:
        """Count one more message of that person, or give the notice of the quota that it would exceed.

        None if it is within the limits, "" if the notice was shown already (unless `repeat`).
        """
        own = self._find_settings()
        quota = own.limits if own is not None else Quota()
        if quota == Quota() or self.is_admin(author):
            return None
        exceeded = await self.quotas.admit(author, quota)
        if exceeded is None:
            return None
        if exceeded.told and not repeat:
            return ""
        return say(language, exceeded.kind, limit=exceeded.limit, wait=duration(exceeded.seconds, language))
