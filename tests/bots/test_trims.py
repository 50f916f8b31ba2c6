"""What is left out of prompts for want of room comes back once there is more room."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from chatbridge import Author, Bridge, Channel, ChannelSettings, Message, Notice, Plugins, ReplyStream, Sampling
from chatbridge.config import ModelSettings, Settings, SettingsSource
from chatbridge.testing import ToyOptions, plugin_of, toy_backend

ROOM = Channel("room")
Ask = Callable[[str], Awaitable[tuple[int, list[str]]]]


def models(**lengths: int) -> dict[str, ModelSettings]:
    return {
        name: ModelSettings(name, "toy", ToyOptions.model_validate({"context_length": length}), template="chatml")
        for name, length in lengths.items()
    }


@pytest.fixture
async def bridge(tmp_path: Path, warm_workers: None) -> AsyncIterator[Bridge]:
    plugins = Plugins([plugin_of(backends=[toy_backend])], discover=False)
    defaults = ChannelSettings(model="big", language="en", sampling=Sampling(max_tokens=8, seed=1))
    settings = Settings(models(big=4096, small=300), plugins.templates, tmp_path / "store", defaults)
    async with Bridge(SettingsSource(settings), plugins) as bridge:
        yield bridge


@pytest.fixture
def ask(bridge: Bridge) -> Ask:
    """Asks, and gives the prompt's tokens and the notices; of a command, nothing."""
    count = 0

    async def ask(text: str) -> tuple[int, list[str]]:
        nonlocal count
        count += 1
        reply = await bridge.bot("bot").receive(Message(f"{count}", ROOM, Author("a", "A"), text))
        if isinstance(reply, Notice):
            return 0, [reply.text]
        assert isinstance(reply, ReplyStream)
        async for _ in reply:
            pass
        assert reply.finish is not None
        return reply.finish.usage.prompt, [*reply.notices]

    return ask


async def test_a_visit_to_a_smaller_model_forgets_nothing(ask: Ask) -> None:
    for number in range(8):
        before, _ = await ask(f"message number {number} of a talk")
    await ask("/model small")
    small, notices = await ask("on the small one")
    assert small < 300
    assert len(notices) == 1, "people are told what is left out"
    await ask("/model big")
    back, notices = await ask("back on the big one")
    assert back > before
    assert notices == [], "nothing is left out any more"
    again, _ = await ask("and it goes on")
    assert again > back


async def test_a_larger_context_in_bots_yaml_brings_it_back(bridge: Bridge, ask: Ask) -> None:
    bridge.source.change(replace(bridge.settings, models=models(big=300)))
    for number in range(8):
        trimmed, _ = await ask(f"message number {number} of a talk")
    assert trimmed < 300
    bridge.source.change(replace(bridge.settings, models=models(big=4096)))
    whole, _ = await ask("with more room")
    assert whole > 400


async def test_with_the_same_room_a_prompt_goes_on_where_it_began(bridge: Bridge, ask: Ask) -> None:
    bridge.source.change(replace(bridge.settings, models=models(big=300)))
    trims = []
    for number in range(12):
        await ask(f"message number {number} of a talk")
        trims.append((await bridge.store.conversation("bot", ROOM.id)).trim)
    moves = sum(before != after for before, after in pairwise(trims))
    assert 1 <= moves <= 5, "history goes in blocks"
    assert trims[-1] is not None


async def test_a_little_more_room_brings_back_as_much_as_fits(bridge: Bridge, ask: Ask) -> None:
    bridge.source.change(replace(bridge.settings, models=models(big=300)))
    for number in range(12):
        await ask(f"message number {number} of a talk")
    before = await bridge.store.conversation("bot", ROOM.id)
    bridge.source.change(replace(bridge.settings, models=models(big=600)))
    tokens, notices = await ask("with more room")
    after = await bridge.store.conversation("bot", ROOM.id)
    assert before.trim is not None
    assert after.trim is not None
    assert after.trim < before.trim
    assert 250 < tokens < 600
    assert notices == []
