"""The program is killed at random moments while twenty chats are busy: each message is answered, and only once."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from chatbridge.testing import BusyChat, DiscordServer, kill_at_random

PROGRAM = Path(__file__).with_name("program_to_kill.py")
KILLS = 100 if os.environ.get("CHATBRIDGE_FULL") == "1" else 4
CHATS = 20


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
@pytest.mark.timeout(1800)
async def test_each_message_is_answered_and_no_answer_is_doubled(roomy: DiscordServer, tmp_path: Path) -> None:
    def busy(number: int) -> BusyChat:
        person = roomy.add_person(f"person{number}")
        roomy.join(roomy.guild, person)
        channel = roomy.dm(person) if number % 2 else roomy.add_channel(f"channel{number}")
        return BusyChat(
            partial(roomy.say, channel, author=person), lambda: [message.text for message in roomy.messages(channel)]
        )

    command = [sys.executable, PROGRAM, tmp_path / "store", roomy.bot.token, roomy.api_url, roomy.gateway_url]
    start = partial(asyncio.create_subprocess_exec, *command)
    ready = partial(roomy.gateway.until_connected, within=30)
    report = await kill_at_random(roomy, [busy(number) for number in range(CHATS)], start, kills=KILLS, ready=ready)
    assert report.asked > 4 * KILLS
    assert report.marked == report.doubled == 0, report  # a message that is sent again with its nonce is there once
