"""The program is killed at random moments while twenty chats are busy: each message is answered, once or marked."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from chatbridge.testing import BusyChat, TelegramServer, kill_at_random

PROGRAM = Path(__file__).with_name("program_to_kill.py")
KILLS = 100 if os.environ.get("CHATBRIDGE_FULL") == "1" else 4
CHATS = 20


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
@pytest.mark.timeout(1800)
async def test_each_message_is_answered_and_no_answer_is_doubled_in_silence(
    roomy: TelegramServer, tmp_path: Path
) -> None:
    def busy(number: int) -> BusyChat:
        person = roomy.add_person(f"Person{number}")
        chat = roomy.private(person)
        return BusyChat(
            partial(roomy.say, chat, author=person), lambda: [message.text for message in roomy.messages(chat)]
        )

    command = [sys.executable, PROGRAM, tmp_path / "store", roomy.bot.token, roomy.api_url, roomy.file_url]
    start = partial(asyncio.create_subprocess_exec, *command)
    report = await kill_at_random(roomy, [busy(number) for number in range(CHATS)], start, kills=KILLS)
    assert report.asked > 4 * KILLS
    assert report.marked <= report.asked // 10, report  # marks are for what a kill hit in the middle of a call
