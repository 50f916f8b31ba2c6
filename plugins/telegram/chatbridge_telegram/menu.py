"""The menu of commands that Telegram's clients show, in English and Chinese, registered where it has changed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

import telegram
from telegram.error import TelegramError

from chatbridge import ChatCommand

log = logging.getLogger(__name__)

MAX_COMMANDS = 100
_NAME = re.compile(r"[a-z0-9_]{1,32}")


async def sync_commands(client: telegram.Bot, commands: Iterable[ChatCommand], admins: Iterable[str]) -> None:
    """Register the commands; those for admins in the admins' own chats only. Failures are logged."""
    known = [command for command in commands if _NAME.fullmatch(command.name)]
    everyone = [command for command in known if not command.admin]
    await _sync(client, everyone, None)
    for admin in admins:
        await _sync(client, known, telegram.BotCommandScopeChat(int(admin)))


async def _sync(client: telegram.Bot, commands: Sequence[ChatCommand], scope: telegram.BotCommandScope | None) -> None:
    for language in ("", "zh"):
        wanted = tuple(
            telegram.BotCommand(command.name, (command.summary_zh if language else command.summary)[:256])
            for command in commands[:MAX_COMMANDS]
        )
        code = language or None
        try:
            if await client.get_my_commands(scope, code) != wanted:
                await client.set_my_commands(wanted, scope, code)
        except TelegramError as error:  # an admin who has not written yet, or a server that is away for a moment
            log.warning("the menu of commands could not be put up: %s", error)
            return
