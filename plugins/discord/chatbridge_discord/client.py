"""The library's client of one bot, and what it does about each event. Starts and ends nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import discord

from chatbridge import Bot, StoreError
from chatbridge_discord.channels import cursor_name
from chatbridge_discord.commands import described, sync_commands
from chatbridge_discord.failures import TRANSIENT_ERRORS, why
from chatbridge_discord.interactions import Interactions
from chatbridge_discord.options import DiscordOptions
from chatbridge_discord.redirect import Connector
from chatbridge_discord.rest import Rest
from chatbridge_discord.room import Room

log = logging.getLogger(__name__)

Sleep: TypeAlias = Callable[[float], Awaitable[None]]

CATCH_UP_AGAIN = (1.0, 60.0)
"""Seconds to wait before reading again what was missed, where that failed: at first, and at most; doubled each time."""


def intents_of(options: DiscordOptions) -> discord.Intents:
    """What the gateway is asked for: messages, and what they are in."""
    return discord.Intents(guilds=True, guild_messages=True, dm_messages=True, message_content=options.message_content)


def new_client(options: DiscordOptions, identify_pause: float | None = None, **library: Any) -> discord.Client:
    """A client that is not logged in yet. `identify_pause`: seconds before each new session but the first, the
    library's own unless given. `library`: more options of it."""
    given: dict[str, Any] = {
        "intents": intents_of(options),
        "connector": Connector(options.api_url, options.gateway_url),
        "max_messages": None,
        "member_cache_flags": discord.MemberCacheFlags.none(),
        "chunk_guilds_at_startup": False,
        "allowed_mentions": discord.AllowedMentions.none(),
        "proxy": options.proxy.get_secret_value() if options.proxy is not None else None,
    } | library
    if options.shards == 1:
        client = discord.Client(**given)
    else:
        client = discord.AutoShardedClient(**given, shard_count=None if options.shards == "auto" else options.shards)
    if identify_pause is not None:

        async def before_identify_hook(shard: int | None, *, initial: bool = False) -> None:
            await asyncio.sleep(0 if initial else identify_pause)

        setattr(client, before_identify_hook.__name__, before_identify_hook)
    return client


class Events:
    """What happens at each event of a client. `ready` is set once all servers are known."""

    def __init__(
        self, client: discord.Client, room: Room, rest: Rest, bot: Bot, options: DiscordOptions, sleep: Sleep
    ) -> None:
        self.ready = asyncio.Event()
        self._client, self._room, self._rest = client, room, rest
        self._bot, self._options, self._sleep = bot, options, sleep
        self._interactions = Interactions(bot, room.delivery, room.roles)
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers = (
            self.on_connect, self.on_ready, self.on_shard_ready, self.on_guild_join, self.on_guild_available,
            self.on_message, self.on_raw_message_edit, self.on_raw_message_delete, self.on_raw_bulk_message_delete,
            self.on_interaction, self.on_error,
        )  # fmt: skip
        for handler in self._handlers:
            client.event(handler)

    async def aclose(self) -> None:
        """Take no more events, and cancel what was begun. To be called before the client is closed."""
        for handler in self._handlers:
            delattr(self._client, handler.__name__)
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the connection ----------------------------------------------------------------------------------------

    async def on_connect(self) -> None:
        """A new session: nobody tells what was written since the last one. Runs before the session's first message."""
        self._room.backfill.begin()

    async def on_ready(self) -> None:
        """All servers are known. This comes again with each session."""
        user, guilds = self._client.user, self._client.guilds
        log.info("bot %s: this is %s on Discord, in %d servers", self._bot.name, user, len(guilds))
        if not guilds:
            log.warning("bot %s is in no server yet; let it into yours: %s", self._bot.name, self._invitation())
        self.ready.set()
        self._start(self._begin())
        self._start(self._catch_up(), "catch up")

    async def on_shard_ready(self, shard: int) -> None:
        """One connection of several has a new session."""
        self._start(self._catch_up(), "catch up")

    async def on_guild_join(self, guild: discord.Guild) -> None:
        """Somebody has let the bot into a server."""
        log.info("bot %s was let into the server %s (%s)", self._bot.name, guild.id, guild.name)
        await self.on_guild_available(guild)

    async def on_guild_available(self, guild: discord.Guild) -> None:
        """The bot is in a server. Those that it is in at the start of a session come before `ready`."""
        if self.ready.is_set() and self._options.commands == "guilds":
            self._start(self._sync_commands(guild.id))

    async def _begin(self) -> None:
        try:
            await self._room.delivery.resume()
        except StoreError as error:
            log.error("bot %s: what waits can't be read: %s", self._bot.name, error)
        if self._options.commands == "none":
            return
        everywhere = self._options.commands == "global"
        await self._sync_commands(None, everywhere)
        for guild in self._client.guilds:  # a command that is put up in both ways would be shown twice
            await self._sync_commands(guild.id, not everywhere)

    async def _sync_commands(self, guild: int | None, wanted: bool = True) -> None:
        application = self._client.application_id
        assert application is not None, "the client is logged in"
        commands = described(self._bot.commands) if wanted else []
        await sync_commands(self._rest, application, commands, guild, sleep=self._sleep)

    def _invitation(self) -> str:
        may = discord.Permissions(
            view_channel=True,
            send_messages=True,
            send_messages_in_threads=True,
            create_public_threads=True,
            attach_files=True,
            embed_links=True,
            read_message_history=True,
        )
        return discord.utils.oauth_url(self._client.application_id or 0, permissions=may)

    # --- what was missed ---------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Read the messages that came while there was no session; again where that fails."""
        wait = CATCH_UP_AGAIN[0]
        while not all([await self._room.catch_up(self._client, where, cursor) for where, cursor in self._gaps()]):
            await self._sleep(wait)
            wait = min(2 * wait, CATCH_UP_AGAIN[1])
        self._room.backfill.close_all()

    def _gaps(self) -> list[tuple[Any, str]]:
        """Where messages may have been missed, and the names of these places' cursors."""
        backfill, gaps = self._room.backfill, []
        for guild in self._client.guilds:
            places: list[Any] = [*guild.text_channels, *guild.voice_channels, *guild.stage_channels, *guild.threads]
            for where in places:
                after = backfill.after(cursor := cursor_name(where))
                if after is not None and (where.last_message_id or 0) > after and _may_look(where, guild):
                    gaps.append((where, cursor))
                else:
                    backfill.close(cursor)
        for cursor in backfill.private:
            if backfill.after(cursor) is not None:
                gaps.append((self._client.get_partial_messageable(int(cursor[1:])), cursor))
        return gaps

    # --- what people do ----------------------------------------------------------------------------------------

    # The library keeps no hold of what it starts for an event, so that it might end half-way: all is begun anew here.

    async def on_message(self, message: discord.Message) -> None:
        self._start(self._message(message))

    async def _message(self, message: discord.Message) -> None:
        if not await self._room.message(self._client, message):  # nothing more may be said there for a long time
            self._start(self._catch_up(), "catch up")

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        if payload.message.author != self._client.user:
            self._start(self._room.edited(self._client, payload.message))

    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        ids = [payload.message_id]
        self._start(self._room.deleted(self._client, payload.channel_id, payload.guild_id, ids))

    async def on_raw_bulk_message_delete(self, payload: discord.RawBulkMessageDeleteEvent) -> None:
        ids = sorted(payload.message_ids)
        self._start(self._room.deleted(self._client, payload.channel_id, payload.guild_id, ids))

    async def on_interaction(self, interaction: discord.Interaction) -> None:
        self._start(self._interactions.handle(interaction))

    async def on_error(self, event: str, *args: object, **kwargs: object) -> None:
        log.exception("bot %s: what %s tells was left out", self._bot.name, event)

    def _start(self, work: Coroutine[None, None, None], name: str = "an event") -> None:
        """Run this in the background; catching up is begun anew by each session."""
        for task in self._tasks:
            if task.get_name() == name == "catch up":
                task.cancel()
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            trace = None if isinstance(error, TRANSIENT_ERRORS) else error
            log.error("bot %s: an event was left out: %s", self._bot.name, why(error), exc_info=trace)


def _may_look(where: Any, guild: discord.Guild) -> bool:
    """Whether the bot may read a channel's history: Discord bans who asks too often for what it may not read."""
    if guild.me is None:
        return True
    may = where.permissions_for(guild.me)
    return bool(may.view_channel and may.read_message_history)
