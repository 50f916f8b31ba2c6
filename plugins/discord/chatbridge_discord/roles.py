"""Which roles people have where Discord does not tell: in private chats, and of messages that are looked up later.

Asked for only where bots.yaml names roles, of the servers that have these. Decides nobody's rights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import discord

from chatbridge import Author, Bot
from chatbridge_discord.incoming import author_of

KEPT_SECONDS = 30.0
"""How long a person's roles are remembered in private chats: somebody who is muted now is soon muted there, too."""


class Roles:
    """The roles of one bot's people."""

    def __init__(self, bot: Bot, now: Callable[[], float] = time.monotonic) -> None:
        self._bot, self._now = bot, now
        self._kept: dict[int, tuple[float, tuple[str, ...]]] = {}

    async def author(
        self, client: discord.Client, person: discord.User | discord.Member, guild: discord.Guild | None
    ) -> Author:
        """Who that is in a server, or in a private chat (`guild` None), where all servers' roles count that bots.yaml
        names. Raises discord.DiscordException and what the network raises."""
        author, named = author_of(person), self._named()
        if not named or isinstance(person, discord.Member) or person.bot:
            return author
        if guild is not None:
            with suppress(discord.NotFound, discord.Forbidden):
                return author_of(await guild.fetch_member(person.id))
            return author
        return replace(author, roles=await self._everywhere(client, person.id, named))

    async def _everywhere(self, client: discord.Client, person: int, named: frozenset[str]) -> tuple[str, ...]:
        now = self._now()
        self._kept = {user: kept for user, kept in self._kept.items() if kept[0] > now - KEPT_SECONDS}
        if person in self._kept:
            return self._kept[person][1]
        found: list[str] = []
        for guild in client.guilds:
            if not any(str(role.id) in named for role in guild.roles):
                continue
            with suppress(discord.NotFound):  # they are not in that server
                found += author_of(await guild.fetch_member(person)).roles
        self._kept[person] = (now, tuple(found))
        return self._kept[person][1]

    def _named(self) -> frozenset[str]:
        own = self._bot.settings
        return own.allow.roles | own.deny.roles | own.admins.roles if own is not None else frozenset()
