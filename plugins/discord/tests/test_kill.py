"""The program is killed at random moments while twenty chats are busy: each message is answered, once or marked."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from chatbridge.testing import DiscordServer
from chatbridge.testing.discord.state import Channel, User

VICTIM = Path(__file__).with_name("victim.py")
KILLS = 100 if os.environ.get("CHATBRIDGE_FULL") == "1" else 4
CHATS = 20
MARK = "⚠ "


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
@pytest.mark.timeout(1800)
async def test_each_message_is_answered_and_no_answer_is_doubled_in_silence(
    roomy: DiscordServer, tmp_path: Path
) -> None:
    chance = random.Random(7)
    people = [roomy.add_person(f"person{number}") for number in range(CHATS)]
    chats: list[tuple[Channel, User]] = []
    for number, person in enumerate(people):
        roomy.join(roomy.guild, person)
        channel = roomy.dm(person) if number % 2 else roomy.add_channel(f"channel{number}")
        chats.append((channel, person))
    asked: list[list[str]] = [[] for _ in chats]

    async def ask(number: int) -> None:
        words = " ".join(["word"] * chance.randrange(1, 30))
        text = f"message {len(asked[number])} of chat {number}: {words}"
        asked[number].append(text)
        channel, person = chats[number]
        await roomy.say(channel, text, author=person)

    program = await _start(roomy, tmp_path)
    await roomy.gateway.until_connected(within=30)
    for number in range(CHATS):  # Discord tells nobody of a private chat that has begun while it was down
        await ask(number)
    await roomy.until(lambda: _answered(roomy, chats, asked) or None, within=60, what="the first answers")
    for _ in range(KILLS):
        for _ in range(chance.randrange(5, 30)):
            await ask(chance.randrange(CHATS))
        calls = len(roomy.calls) + chance.randrange(1, 150)
        await roomy.until(
            lambda calls=calls: len(roomy.calls) >= calls or _answered(roomy, chats, asked) or None, within=60
        )
        program.kill()
        assert await program.wait() == -9, "it ended by itself"
        for _ in range(chance.randrange(0, 5)):
            await ask(chance.randrange(CHATS))
        program = await _start(roomy, tmp_path)
    await roomy.until(lambda: _answered(roomy, chats, asked) or None, within=120, what="all answers")
    program.kill()
    await program.wait()
    for (channel, _), texts in zip(chats, asked, strict=True):
        _judge([message.text for message in roomy.messages(channel)], texts)
    assert sum(map(len, asked)) > 4 * KILLS


async def _start(server: DiscordServer, folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, VICTIM, folder / "store", server.bot.token, server.api_url, server.gateway_url
    )


def _answered(server: DiscordServer, chats: list[tuple[Channel, User]], asked: list[list[str]]) -> bool:
    return all(
        any(message.text.endswith(text.upper()) for message in server.messages(channel))
        for (channel, _), texts in zip(chats, asked, strict=True)
        for text in texts
    )


def _judge(shown: list[str], asked: list[str]) -> None:
    """Whether a chat shows each answer once, or a second time with a mark; and in order."""
    plain = Counter(text for text in shown if not text.startswith(MARK))
    marked = Counter(text.partition("\n")[2] for text in shown if text.startswith(MARK))
    expected = [text.upper() for text in asked]
    for text in expected:
        assert plain[text] <= 1, f"a silent double of {text!r}"
        assert plain[text] + marked[text] >= 1, f"{text!r} was lost"
    assert set(plain) | set(marked) == set(expected)
    order = [text.partition("\n")[2] if text.startswith(MARK) else text for text in shown]
    positions = [order.index(text) for text in expected]
    assert positions == sorted(positions)
