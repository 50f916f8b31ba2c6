"""Runs one bot on Telegram from start to shutdown: connects, says what is amiss, takes updates, delivers answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import telegram
from telegram.error import BadRequest, InvalidToken, TelegramError

from chatbridge import (
    Bot,
    ChannelSettings,
    ChatbridgeError,
    Clock,
    ConfigError,
    Delivery,
    Downloads,
    redacted,
)
from chatbridge_telegram import menu
from chatbridge_telegram.chat import EVERYWHERE
from chatbridge_telegram.failures import why
from chatbridge_telegram.files import Files
from chatbridge_telegram.listener import Listener
from chatbridge_telegram.options import TelegramOptions, Webhook
from chatbridge_telegram.polling import BACK_OFF, HOLD_SECONDS, WANTED, poll
from chatbridge_telegram.request import Request
from chatbridge_telegram.room import Room

log = logging.getLogger(__name__)

LOGGERS_WITH_TOKEN = ("telegram.Bot", "telegram.request")
"""The loggers that write addresses; the token is a part of each."""
NOISY_LOGGERS = {"httpx": logging.WARNING, "telegram.request.BaseRequest": logging.CRITICAL}
"""httpx logs a line for each call, polls included. The library logs an answer that is no JSON, such as the page of a
proxy that reaches nobody, with a traceback, and then raises it as an error, which says the same in one line."""


async def run(
    options: TelegramOptions,
    bot: Bot,
    *,
    clock: Clock | None = None,
    drain: float | None = None,
    tries: int = 5,
    hold: int = HOLD_SECONDS,
    back_off: float = BACK_OFF[0],
) -> None:
    """Serve `bot` until cancelled. `clock`, `drain`, `tries`: delivery's. `hold`: seconds that a poll is kept open.

    Raises: ConfigError for a token that Telegram does not know.
    """
    sleep = clock.sleep if clock is not None else asyncio.sleep
    with redacted(options.token.get_secret_value(), LOGGERS_WITH_TOKEN, NOISY_LOGGERS), _with_token_explained(bot):
        async with _connected(options, back_off) as client, Files(client, _proxy(options)) as files:
            downloads = Downloads(
                "Telegram", files.fetch, max_kib=options.max_file_kib, seconds=options.max_file_seconds
            )
            room = Room(bot, client, options, downloads)
            room.delivery = Delivery(
                bot,
                room.chat,
                room.limits,
                budget=EVERYWHERE,
                clock=clock,
                drain=drain,
                tries=tries,
                downloads=downloads,
            )
            async with aclosing(room), room.delivery:
                await _begin(client, bot, options)
                await room.delivery.resume()
                if options.webhook is None:
                    await _retried(client.delete_webhook, back_off)
                    await poll(client, room.take_all, hold=hold, back_off=back_off, sleep=sleep)
                else:
                    await _listen(client, room, options.webhook, back_off)


@contextmanager
def _with_token_explained(bot: Bot) -> Iterator[None]:
    """Raise a wrong token as an error of ours: the library's contains the token."""
    try:
        yield
    except InvalidToken:
        raise ConfigError(
            f"bot {bot.name}: Telegram does not know this token. @BotFather shows the right one by /mybots; "
            "a Bot API server of your own needs `api_url`"
        ) from None


@asynccontextmanager
async def _connected(options: TelegramOptions, back_off: float) -> AsyncIterator[telegram.Bot]:
    """The library's bot, once Telegram has answered it."""
    client = _client(options)
    try:
        await _retried(client.initialize, back_off)
        yield client
    finally:
        await client.shutdown()


def _proxy(options: TelegramOptions) -> str | None:
    return options.proxy.get_secret_value() if options.proxy is not None else None


def _client(options: TelegramOptions) -> telegram.Bot:
    proxy = _proxy(options)
    request = Request(read_timeout=20, write_timeout=20, connect_timeout=10, pool_timeout=10, proxy=proxy)
    polls = Request(1, connect_timeout=10, pool_timeout=10, proxy=proxy)
    return telegram.Bot(
        options.token.get_secret_value(),
        options.api_url,
        options.file_url,
        request=request,
        get_updates_request=polls,
    )


async def _retried(call: Callable[[], Awaitable[object]], back_off: float) -> None:
    """Make a call that everything else waits for, again and again while Telegram can't be reached."""
    while True:
        try:
            await call()
            return
        except (InvalidToken, BadRequest):
            raise
        except TelegramError as error:
            log.warning("no answer from Telegram: %s; asking again in %g s", why(error), back_off)
            await asyncio.sleep(back_off)
            back_off = min(2 * back_off, BACK_OFF[1])


async def _begin(client: telegram.Bot, bot: Bot, options: TelegramOptions) -> None:
    """Log who the bot is and which of its settings Telegram does not support; register its menu."""
    log.info("bot %s: this is @%s on Telegram", bot.name, client.username)
    if not client.bot.can_read_all_group_messages and _wants_all(bot):
        log.warning(
            "bot %s: bots.yaml lets it answer group messages that do not mention it, but Telegram's privacy mode "
            "keeps these away. Say /setprivacy to @BotFather, choose Disable, then put the bot out of the group and "
            "let it in again; or make it an administrator there",
            bot.name,
        )
    if options.menu:
        own = bot.settings
        admins = sorted(own.admins.users) if own is not None else ()
        await menu.sync_commands(client, bot.commands, bot.commands_in("group"), admins)


def _wants_all(bot: Bot) -> bool:
    own = bot.settings
    levels = [bot.services.settings.defaults, *([own.defaults, *own.channels.values()] if own is not None else [])]
    return any(_hears_more(level) for level in levels)


def _hears_more(level: ChannelSettings) -> bool:
    return level.reply_to == "always" or bool(level.prefix or level.pattern or level.chance)


async def _listen(client: telegram.Bot, room: Room, webhook: Webhook, back_off: float) -> None:
    """Let Telegram post updates, until cancelled."""
    secret = webhook.secret.get_secret_value() if webhook.secret is not None else secrets.token_urlsafe(32)

    async def take(given: dict[str, Any]) -> bool:
        try:
            update = telegram.Update.de_json(given, client)
        except Exception:
            log.exception("an update can't be read, and is left out")
            return True
        try:
            await room.take(update)
        except ChatbridgeError as error:
            log.error("an update can't be stored; Telegram will post it again: %s", error)
            return False
        return True

    async with Listener(webhook.host, webhook.port, webhook.url, secret, take) as listener:
        await _retried(lambda: client.set_webhook(webhook.url, secret_token=secret, allowed_updates=WANTED), back_off)
        log.info("waiting for Telegram's posts on %s:%d", webhook.host, listener.port)
        await asyncio.Event().wait()
