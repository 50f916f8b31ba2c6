"""Runs one bot on Discord from start to shutdown: logs in, connects again whatever ends it, says what is amiss."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from typing import Any

import discord
from yarl import URL

from chatbridge import Bot, Clock, ConfigError, Delivery, Downloads, redacted
from chatbridge_discord.backfill import FIRST_START, Backfill, id_at
from chatbridge_discord.chat import EVERYWHERE
from chatbridge_discord.client import Events, Sleep, new_client
from chatbridge_discord.failures import TRANSIENT_ERRORS, why
from chatbridge_discord.files import Files
from chatbridge_discord.http_trace import counting_trace
from chatbridge_discord.options import DiscordOptions
from chatbridge_discord.redirect import API
from chatbridge_discord.rest import Rest
from chatbridge_discord.room import Room

log = logging.getLogger(__name__)

MAX_BACK_OFF = 60.0
LOGGERS_WITH_TOKEN = ("discord.client", "discord.shard", "discord.state", "aiohttp.client", "asyncio")
"""The loggers that may write the token."""
NOISY_LOGGERS = dict.fromkeys(("discord.http", "discord.gateway", "discord.webhook.async_"), logging.INFO)
"""At level DEBUG these write whole events and addresses: what people said, and the tokens of interactions."""
WRONG_TOKEN, SHARDING_NEEDED, NO_SUCH_SHARDS, WRONG_INTENTS, REFUSED_INTENTS = 4004, 4011, 4010, 4013, 4014


async def run(
    options: DiscordOptions,
    bot: Bot,
    *,
    clock: Clock | None = None,
    drain: float | None = None,
    tries: int = 5,
    back_off: float = 1.0,
    **library: Any,
) -> None:
    """Serve `bot` until cancelled. `clock`, `drain`, `tries`: as delivery has them. `back_off`: the first pause before
    a new connection, in seconds. `library`: more for `new_client`.

    Raises: ConfigError for what only a person can mend: the token, a switch in the developer portal.
    """
    token = options.token.get_secret_value()
    proxy = options.proxy.get_secret_value() if options.proxy is not None else None
    now = clock.time if clock is not None else asyncio.get_running_loop().time
    sleep: Sleep = clock.sleep if clock is not None else asyncio.sleep
    with redacted(token, LOGGERS_WITH_TOKEN, NOISY_LOGGERS):
        async with Rest(token, options.api_url, now, proxy) as rest, Files(proxy) as files:
            downloads = Downloads(
                "Discord", files.fetch, max_kib=options.max_file_kib, seconds=options.max_file_seconds
            )
            room = Room(bot, rest, options, downloads)
            async with Delivery(
                bot,
                room.chat,
                room.limits,
                budget=EVERYWHERE,
                clock=clock,
                drain=drain,
                tries=tries,
                downloads=downloads,
            ) as delivery:
                room.delivery = delivery
                room.backfill = await _backfill(delivery, options)
                async with Rest(
                    token, options.api_url, now, proxy, counting_trace(delivery, URL(options.api_url))
                ) as others:
                    await _serve(options, bot, room, others, back_off, sleep, library)


async def _backfill(delivery: Delivery, options: DiscordOptions) -> Backfill:
    """How far messages were read. The first start of a bot sets a cursor: what was written before is not answered."""
    if FIRST_START not in await delivery.cursors():
        await delivery.advance(FIRST_START, id_at(time.time()))
    return Backfill(await delivery.cursors(), options.catch_up_hours)


async def _serve(
    options: DiscordOptions,
    bot: Bot,
    room: Room,
    rest: Rest,
    back_off: float,
    sleep: Sleep,
    library: dict[str, Any],
) -> None:
    """Connect, and again whatever ends the connection, but for what a person has to mend."""
    wait = back_off
    library = {"http_trace": counting_trace(room.delivery, API)} | library
    while True:
        client = new_client(options, **library)
        events = Events(client, room, rest, bot, options, sleep)
        try:
            async with client, aclosing(events):
                await client.login(options.token.get_secret_value())
                _check_switch(client, bot, options)
                await client.connect()
        except discord.LoginFailure:
            raise _wrong_token(bot) from None
        except discord.PrivilegedIntentsRequired:
            raise _switch_missing(bot) from None
        except discord.ConnectionClosed as error:
            if (mistake := _mistake(error.code, bot)) is not None:
                raise mistake from None
            log.warning("bot %s: Discord has closed the connection: %s", bot.name, error)
        except TRANSIENT_ERRORS as error:
            log.warning("bot %s: no connection to Discord: %s", bot.name, why(error))
        except ConfigError:
            raise
        except Exception:  # an event that the library can't read ends it
            log.exception("bot %s: the connection to Discord has failed", bot.name)
        wait = back_off if events.ready.is_set() else wait
        log.info("bot %s: connecting to Discord anew in %g s", bot.name, wait)
        await asyncio.sleep(wait)
        wait = min(2 * wait, MAX_BACK_OFF)


def _check_switch(client: discord.Client, bot: Bot, options: DiscordOptions) -> None:
    """Check before connecting whether the bot may read messages. Raises: ConfigError."""
    flags = client.application_flags
    if options.message_content and not (flags.gateway_message_content or flags.gateway_message_content_limited):
        raise _switch_missing(bot)


def _mistake(code: int, bot: Bot) -> ConfigError | None:
    if code == WRONG_TOKEN:
        return _wrong_token(bot)
    if code == REFUSED_INTENTS:
        return _switch_missing(bot)
    if code == SHARDING_NEEDED:
        return ConfigError(f"bot {bot.name}: it is in too many servers for one connection; say `shards: auto`")
    if code in (NO_SUCH_SHARDS, WRONG_INTENTS):
        return ConfigError(f"bot {bot.name}: Discord does not take its `shards` or intents (close code {code})")
    return None


def _wrong_token(bot: Bot) -> ConfigError:
    return ConfigError(
        f"bot {bot.name}: Discord does not know this token. The developer portal "
        "(https://discord.com/developers/applications) makes a new one: your application > Bot > Reset Token"
    )


def _switch_missing(bot: Bot) -> ConfigError:
    return ConfigError(
        f"bot {bot.name}: Discord does not let it read messages. In the developer portal "
        "(https://discord.com/developers/applications) open your application > Bot, switch on "
        "'Message Content Intent' and save; or say `message_content: false` in bots.yaml, and the bot will read "
        "private messages and those that mention it"
    )
