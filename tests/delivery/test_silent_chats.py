"""What a chat needs in memory while it speaks is gone, or bounded, once it is silent."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import pytest

from chatbridge import Author, Bot, Budget, Channel, Delivery, Limits, Message
from chatbridge.bots import bot as bots
from chatbridge.bots.triggers import MAX_ANSWERS_TO_BOTS, MAX_STREAKS, BotStreaks
from chatbridge.delivery.clock import LoopClock
from chatbridge.testing import ScriptedBackend, bridge_with, channel_settings, run_virtually, scripted

CHATS = 300


class SilentChat:
    """Takes everything and keeps nothing."""

    sent = 0

    async def send(self, content: object, *, reply_to: str | None, nonce: str) -> str:
        SilentChat.sent += 1
        return f"m{SilentChat.sent}"

    async def edit(self, message_id: str, content: object) -> None: ...

    async def delete(self, message_id: str) -> None: ...

    async def typing(self) -> None: ...

    async def draft(self, draft_id: int, content: object) -> None: ...


def objects() -> Counter[str]:
    """How many objects of ours and of asyncio's there are, by their types."""
    gc.collect()
    return Counter(
        f"{type(one).__module__}.{type(one).__qualname__}"
        for one in gc.get_objects()
        if str(type(one).__module__).split(".")[0] in ("chatbridge", "asyncio", "_asyncio")
    )


async def speak(delivery: Delivery, first: int, count: int) -> None:
    """So many chats say one thing each, and are silent from then on."""
    for number in range(first, first + count):
        person = Author(f"user {number}", "Ann", is_bot=number % 2 == 1)
        channel = Channel(f"room {number}", kind="group")
        await delivery.accept(Message(f"{number}", channel, person, "hello", mentions_bot=True))
        if number % 50 == 49:
            await delivery.settled()
    await delivery.settled()
    await LoopClock().sleep(300)


async def grown(bot: Bot) -> dict[str, int]:
    """Of which objects there are more after three hundred chats than after fifty, and how many."""
    limits = Limits(2000, budget=Budget(5, 5.0), typing_every=5.0)
    async with Delivery(bot, lambda channel: SilentChat(), limits) as delivery:
        await speak(delivery, 0, 50)
        before = objects()
        await speak(delivery, 50, CHATS)
        return dict(objects() - before)


def test_three_hundred_chats_that_spoke_once_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bots, "MAX_DIALOGUES", 10)  # they are bounded; here by less than others may grow

    async def main() -> dict[str, int]:
        defaults = channel_settings(other_bots="answer")
        backend = ScriptedBackend(*["hi"] * (CHATS + 50))
        async with bridge_with(scripted(backend), tmp_path / "db", defaults=defaults) as bridge:
            found = await grown(bridge.bot("bot"))
            assert SilentChat.sent >= CHATS
            return found

    found = run_virtually(main())
    backend_keeps = {name for name in found if "Request" in name or "segments" in name or "Turn" in name}
    assert {name: count for name, count in found.items() if count > 20 and name not in backend_keeps} == {}


def test_streaks_of_answers_to_bots_are_remembered_of_so_many_channels() -> None:
    streaks = BotStreaks()
    for number in range(2 * MAX_STREAKS):
        assert streaks.allow(Channel(f"{number}"))
    assert len(streaks._counts) == MAX_STREAKS
    last = Channel(f"{2 * MAX_STREAKS - 1}")
    assert [streaks.allow(last) for _ in range(MAX_ANSWERS_TO_BOTS)] == [*[True] * (MAX_ANSWERS_TO_BOTS - 1), False]
