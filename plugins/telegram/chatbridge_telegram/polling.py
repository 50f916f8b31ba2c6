"""Asks Telegram for updates. They are confirmed, by asking for the next, only after `take` has returned."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import telegram
from telegram.error import Conflict, InvalidToken, RetryAfter, TelegramError
from telegram.warnings import PTBUserWarning

from chatbridge import ChatbridgeError
from chatbridge_telegram.failures import seconds_of, why

log = logging.getLogger(__name__)

Take = Callable[[Sequence[telegram.Update]], Awaitable[None]]

WANTED = ("message", "edited_message", "callback_query", "my_chat_member", "stopped_message_generation")
"""The kinds of updates that are asked for; the last is that of a draft's Stop button."""
HOLD_SECONDS = 25
BACK_OFF = (0.5, 30.0)
CONFLICT_SECONDS = 30.0
MAX_ASKED = 3600.0
"""Seconds to wait before updates are asked for again, whatever Telegram says."""


async def poll(
    client: telegram.Bot,
    take: Take,
    *,
    hold: int = HOLD_SECONDS,
    back_off: float = BACK_OFF[0],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Take updates until cancelled. Raises InvalidToken where Telegram does not know the bot any longer."""
    offset: int | None = None
    wait = back_off
    while True:
        try:
            updates = await _ask(client, offset, hold)
            await take(updates)
            if updates:
                offset = updates[-1].update_id + 1
        except InvalidToken:
            raise
        except RetryAfter as error:
            asked = seconds_of(error)
            await sleep(wait if asked is None else min(max(asked, 0.0), MAX_ASKED))
        except Conflict:
            log.error("another program asks for this bot's updates, or it has a webhook; trying again")
            await sleep(max(wait, min(CONFLICT_SECONDS, 60 * back_off)))
        except (TelegramError, ChatbridgeError) as error:
            log.warning("no answer from Telegram: %s; asking again in %g s", why(error), wait)
            await sleep(wait)
            wait = min(wait * 2, BACK_OFF[1])
        else:
            wait = back_off


async def _ask(client: telegram.Bot, offset: int | None, hold: int) -> Sequence[telegram.Update]:
    try:
        return await client.get_updates(offset, timeout=hold, read_timeout=hold + 10, allowed_updates=WANTED)
    except TelegramError:
        raise
    except Exception:
        log.exception("an update can't be read; the others are")
    return await _ask_for_each(client, offset)


async def _ask_for_each(client: telegram.Bot, offset: int | None) -> Sequence[telegram.Update]:
    """Ask again and parse each update by itself, for when the library fails at one of several.

    An update that can't be parsed becomes an empty one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PTBUserWarning)  # it would rather be asked by its own method
        about = {"offset": offset, "timeout": 0, "allowed_updates": list(WANTED)}
        raw: list[dict[str, Any]] = await client.do_api_request("getUpdates", about)
    updates = []
    for one in raw:
        try:
            updates.append(telegram.Update.de_json(one, client))
        except Exception:
            updates.append(telegram.Update(one["update_id"]))
    return updates
