"""Lets people talk to local models in Telegram: private chats, groups, forum topics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    from chatbridge import Bot, FrontendType
    from chatbridge_telegram.options import TelegramOptions

IDS = r"-?\d+(:\d+)?"
IDS_HINT = (
    "it should be a number: of a person or a private chat, as 123456789; of a group, as -1001234567890; "
    "of a topic in it, as -1001234567890:5. The program's log names each group that the bot is let into"
)


@hookimpl
def register_frontends() -> Iterable[FrontendType]:
    from chatbridge import FrontendType
    from chatbridge_telegram.options import TelegramOptions

    return [FrontendType("telegram", TelegramOptions, "chat on Telegram", _run, ids=IDS, ids_hint=IDS_HINT)]


async def _run(options: TelegramOptions, bot: Bot) -> None:
    # On another thread: the library takes its time, and other bots of the program may be in the middle of an answer.
    module = await asyncio.to_thread(import_module, "chatbridge_telegram.bot")
    await module.run(options, bot)
