"""The menu of commands that Telegram's clients show, in English and Chinese, registered where it has changed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

import telegram
from telegram.error import TelegramError

from chatbridge import ChatCommand
from chatbridge_telegram.failures import why

log = logging.getLogger(__name__)

MAX_COMMANDS = 100
_NAME = re.compile(r"[a-z0-9_]{1,32}")


async def sync_commands(
    client: telegram.Bot, private: Iterable[ChatCommand], group: Iterable[ChatCommand], admins: Iterable[str]
) -> None:
    """Register the commands of private chats and of groups; those for admins in the admins' own chats only.

    Failures are logged.
    """
    known = [command for command in private if _NAME.fullmatch(command.name)]
    everyone = [command for command in known if not command.admin]
    there = {command.name for command in group if not command.admin}
    await _sync(client, everyone, None)
    in_groups = [command for command in everyone if command.name in there]
    # Where groups have what everybody has, they need no menu of their own.
    await _sync(client, in_groups if in_groups != everyone else (), telegram.BotCommandScopeAllGroupChats())
    for admin in admins:
        await _sync(client, known, telegram.BotCommandScopeChat(int(admin)))


async def _sync(client: telegram.Bot, commands: Sequence[ChatCommand], scope: telegram.BotCommandScope | None) -> None:
    """Register these in a scope; where there are none, it has no menu of its own."""
    for language in ("", "zh"):
        wanted = tuple(
            telegram.BotCommand(command.name, (command.summary_zh if language else command.summary)[:256])
            for command in commands[:MAX_COMMANDS]
        )
        code = language or None
        try:
            if await client.get_my_commands(scope, code) != wanted:
                if wanted:
                    await client.set_my_commands(wanted, scope, code)
                else:
                    await client.delete_my_commands(scope, code)
        except TelegramError as error:  # an admin who has not written yet, or a server that is away for a moment
            log.warning("the menu of commands could not be put up: %s", why(error))
            return
