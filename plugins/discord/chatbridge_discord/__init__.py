"""Lets people talk to local models on Discord: channels, threads, forum posts, private chats."""

from __future__ import annotations

from collections.abc import Iterable
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
    from chatbridge_discord.bot import run

    await run(options, bot)
