"""A bot that answers by repeating what it was asked, word by word; a program made to be killed.

`program_to_kill.py STORE TOKEN API_URL GATEWAY_URL`
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from chatbridge_discord.bot import run
from chatbridge_discord.options import DiscordOptions

from chatbridge.testing import EchoBackend, HurriedClock, bridge_with, scripted

HURRY = 50
"""How much faster than ours delivery's time passes: it keeps to what a channel may get in five seconds."""


async def main(store: str, token: str, api_url: str, gateway_url: str) -> None:
    options = DiscordOptions.model_validate(
        {"token": token, "api_url": api_url, "gateway_url": gateway_url, "commands": "none"}
    )
    about = {"back_off": 0.01, "tries": 10**6, "guild_ready_timeout": 0.05}
    async with bridge_with(scripted(EchoBackend(pauses=lambda: 0.002)), Path(store)) as bridge:
        await run(options, bridge.bot("bot"), clock=HurriedClock(HURRY), **about)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
