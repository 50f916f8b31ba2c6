"""Lets people talk to local models on Discord: channels, threads, forum posts, private chats."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from chatbridge import hookimpl

if TYPE_CHECKING:
    from chatbridge import Bot, FrontendType
    from chatbridge_discord.options import DiscordOptions

IDS = r"\d+"
IDS_HINT = (
    "it should be a long number, as 1122334455667788990: switch on User Settings > Advanced > "
    "Developer Mode in Discord, then right-click a channel, person, role or server and choose Copy ID"
)


@hookimpl
def register_frontends() -> Iterable[FrontendType]:
    from chatbridge import FrontendType
    from chatbridge_discord.options import DiscordOptions

    return [FrontendType("discord", DiscordOptions, "chat on Discord", _run, ids=IDS, ids_hint=IDS_HINT)]


async def _run(options: DiscordOptions, bot: Bot) -> None:
    # On another thread: the library takes its time, and other bots of the program may be in the middle of an answer.
    module = await asyncio.to_thread(import_module, "chatbridge_discord.bot")
    await module.run(options, bot)
