"""What each event of the gateway means for the bot: messages, edits, deletions. Sends by delivery."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import discord

from chatbridge import Bot, Channel, Delivery, Downloads, Limits, Message, StoreError
from chatbridge_discord.backfill import Backfill
from chatbridge_discord.channels import channel_of, cursor_name
from chatbridge_discord.chat import DiscordChat, limits_of
from chatbridge_discord.failures import TRANSIENT_ERRORS, why
from chatbridge_discord.files import files_of
from chatbridge_discord.incoming import author_of, message_of
from chatbridge_discord.options import DiscordOptions
from chatbridge_discord.rest import Rest
from chatbridge_discord.roles import Roles
from chatbridge_discord.threads import open_thread, thread_of

log = logging.getLogger(__name__)


class Room:
    """A bot on Discord. `delivery` and `backfill` are set before the first event comes."""

    delivery: Delivery
    backfill: Backfill

    def __init__(self, bot: Bot, rest: Rest, options: DiscordOptions, downloads: Downloads) -> None:
        self._bot, self._rest, self._options = bot, rest, options
        self._downloads = downloads
        self._limits = limits_of(options)
        self.roles = Roles(bot)
        self._orders: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def chat(self, channel: str) -> DiscordChat:
        """The chat of a channel's id."""
        return DiscordChat(self._rest, channel, self._options)

    def limits(self, channel: str) -> Limits:
        """What that chat takes."""
        return self._limits

    # --- what the gateway tells --------------------------------------------------------------------------------

    async def message(self, client: discord.Client, given: discord.Message) -> bool:
        """Somebody wrote. What was missed before it comes first. False where it has to be looked for again."""
        cursor = cursor_name(given.channel, given.guild)
        async with self._order(cursor):
            closed = await self._catch_up(client, cursor, given.channel, but=given.id)
            if not (closed and self.backfill.was_read(cursor, given.id)):  # as one of those that were missed
                return await self._take(client, given, cursor if closed else None) and closed
        return True

    async def catch_up(self, client: discord.Client, where: Any, cursor: str) -> bool:
        """Read what was missed in a channel; False where that failed."""
        async with self._order(cursor):
            return await self._catch_up(client, cursor, where)

    async def edited(self, client: discord.Client, given: discord.Message) -> None:
        """A message was edited. Discord also tells of one under which a link's preview has appeared."""
        if not given.content:
            return
        async with self._order(cursor_name(given.channel, given.guild)):
            message = await self._message(client, given)
            if message is not None:
                thread = thread_of(given, _me(client)) if self._options.auto_thread else None
                files, _ = self._downloads.announced(files_of(given.attachments))
                edited = replace(message, channel=thread or message.channel, attachments=files)
                await self.delivery.edited(edited)

    async def deleted(self, client: discord.Client, where: int, guild_id: int | None, ids: Iterable[int]) -> None:
        """Messages were deleted."""
        guild = client.get_guild(guild_id) if guild_id is not None else None
        place = client.get_channel(where) or client.get_partial_messageable(where, guild_id=guild_id)
        channel = channel_of(place, guild)
        async with self._order(cursor_name(place, guild)):
            for id in ids:
                thread = guild.get_thread(id) if guild is not None else None
                await self.delivery.deleted(channel_of(thread) if thread is not None else channel, [str(id)])

    # --- one message -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _order(self, cursor: str) -> AsyncIterator[None]:
        """Keeps the events of one channel in their order, though looking up what was missed takes time."""
        lock = self._orders.setdefault(cursor, asyncio.Lock())
        async with lock:
            yield

    async def _catch_up(self, client: discord.Client, cursor: str, where: Any, but: int = 0) -> bool:
        after = self.backfill.after(cursor)
        if after is None:
            return True
        found = 0
        try:
            async for given in where.history(after=discord.Object(after), limit=None, oldest_first=True):
                if not await self._take(client, given, cursor):
                    return False
                found += given.author != client.user and given.id != but
        except (discord.Forbidden, discord.NotFound) as error:
            log.info("bot %s: channel %s can't be looked through: %s", self._bot.name, cursor, why(error))
        except TRANSIENT_ERRORS as error:
            log.warning("bot %s: channel %s can't be looked through now: %s", self._bot.name, cursor, why(error))
            return False
        if found:
            log.info("bot %s: channel %s: %d messages came while it was away", self._bot.name, cursor, found)
        self.backfill.close(cursor)
        return True

    async def _take(self, client: discord.Client, given: discord.Message, cursor: str | None) -> bool:
        """Store a message, and begin to answer it; False where it has to be looked for again.

        `cursor`: the name of the channel's cursor, which moves to this message; None while some before it are missing.
        """
        try:
            await self._store(client, given, (cursor, given.id) if cursor is not None else None)
        except (StoreError, *TRANSIENT_ERRORS) as error:
            log.error("message %s can't be taken in; it is looked for again soon: %s", given.id, why(error))
            self.backfill.reopen(cursor_name(given.channel, given.guild))
            return False
        except Exception:  # it must not keep all that follow away
            log.exception("message %s was left out", given.id)
        if cursor is not None:
            self.backfill.seen(cursor, given.id)
        return True

    async def _store(self, client: discord.Client, given: discord.Message, cursor: tuple[str, int] | None) -> None:
        message = None if given.author == client.user else await self._message(client, given)
        if message is None:
            if cursor is not None:
                await self.delivery.advance(*cursor)
            return
        if given.attachments:
            locale = given.guild.preferred_locale.value if given.guild else ""  # for want of the person's own
            files = files_of(given.attachments)
            message = await self._bot.bring_files(message, files, self._downloads, language=locale)
        if message is not None and self._options.auto_thread and not message.unreadable:
            message = await self._in_thread(client, given, message)
        if message is not None and (message.text or message.attachments or message.mentions_bot or message.unreadable):
            await self.delivery.accept(message, cursor=cursor)
        elif cursor is not None:
            await self.delivery.advance(*cursor)

    async def _message(self, client: discord.Client, given: discord.Message) -> Message | None:
        if given.webhook_id is None:
            author = await self.roles.author(client, given.author, given.guild)
        else:
            author = replace(author_of(given.author), anonymous=True)
        message = message_of(given, _me(client), channel_of(given.channel, given.guild), author)
        if message is None or message.author.is_bot or not self._options.auto_thread:
            return message
        # In a thread that the bot has opened, everything is said to it.
        own = isinstance(given.channel, discord.Thread) and given.channel.owner_id == _me(client).id
        return replace(message, mentions_bot=message.mentions_bot or own)

    async def _in_thread(self, client: discord.Client, given: discord.Message, message: Message) -> Message:
        """The message in the thread that is opened for it, if it is answered."""
        message = await self._bot.decide(message)
        thread: Channel | None = thread_of(given, _me(client))
        wanted = thread is None and not message.author.is_bot and message.wanted
        if wanted and await self._bot.permits(message.author, message.channel):
            language = self._bot.language(message.channel, text=message.text)
            thread = await open_thread(given, message.text, language)
        return message if thread is None else replace(message, channel=thread)


def _me(client: discord.Client) -> discord.ClientUser:
    assert client.user is not None, "events come after the login"
    return client.user
