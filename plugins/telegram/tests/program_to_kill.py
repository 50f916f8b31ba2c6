"""A bot that answers by repeating what it was asked, word by word; a program made to be killed.

`program_to_kill.py STORE TOKEN API_URL FILE_URL`
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from chatbridge_telegram.bot import run
from chatbridge_telegram.options import TelegramOptions

from chatbridge.testing import EchoBackend, HurriedClock, bridge_with, scripted

HURRY = 50
"""How much faster than ours delivery's time passes: it keeps to what a chat may get in a minute."""


async def main(store: str, token: str, api_url: str, file_url: str) -> None:
    options = TelegramOptions(token=token, api_url=api_url, file_url=file_url, menu=False)
    async with bridge_with(scripted(EchoBackend(pauses=lambda: 0.002)), Path(store)) as bridge:
        await run(options, bridge.bot("bot"), clock=HurriedClock(HURRY), hold=5, back_off=0.01, tries=10**6)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
