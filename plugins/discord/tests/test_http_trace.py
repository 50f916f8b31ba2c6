"""Calls that are not delivery's, such as looking for what was missed: they count, and what they are told counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from chatbridge_discord.http_trace import counting_trace
from yarl import URL

from chatbridge import Budget, Delivery, Limits
from chatbridge.testing import (
    DiscordServer,
    FakeService,
    HurriedClock,
    ScriptedBackend,
    bridge_with,
    channel_settings,
    scripted,
)

from .conftest import serving

LOOK = "GET /channels/*/messages"


async def test_a_global_penalty_met_by_the_library_holds_every_chat(roomy: DiscordServer, tmp_path: Path) -> None:
    people = [roomy.add_person(name) for name in ("ann", "ben", "cleo")]
    ann, ben, cleo = (roomy.dm(person) for person in people)
    backend = scripted(ScriptedBackend("One.", "Two.", "Three."))
    async with (
        bridge_with(backend, tmp_path / "store", defaults=channel_settings()) as bridge,
        serving(roomy, bridge.bot("bot"), clock=HurriedClock(1), commands="none"),
    ):
        await roomy.say(ann, "hello", author=people[0])
        await roomy.next_answer(ann)
        roomy.faults.rate_limit(LOOK, 0.6, scope="global")
        await roomy.say(ben, "hello", author=people[1])  # a new chat: what was missed in it is looked for
        refused = (await roomy.calls.wait(f"GET /channels/{ben.id}/messages"))[0]
        await roomy.say(ann, "and again", author=people[0])
        await roomy.say(cleo, "hello", author=people[2])
        for chat in (ben, cleo):
            await roomy.next_answer(chat)
        await roomy.until(lambda: len(roomy.messages(ann)) == 2 or None)
    assert refused.status == 429
    assert roomy.calls.early == []


async def test_a_global_penalty_met_by_the_commands_holds_every_chat(roomy: DiscordServer, tmp_path: Path) -> None:
    backend = scripted(ScriptedBackend("One."))
    roomy.faults.rate_limit("GET /applications/*/commands", 0.6, scope="global")
    async with (
        bridge_with(backend, tmp_path / "store", defaults=channel_settings()) as bridge,
        serving(roomy, bridge.bot("bot"), clock=HurriedClock(1), commands="global"),
    ):
        refused = (await roomy.calls.wait("GET /applications/*/commands"))[0]
        await roomy.say(roomy.dm(), "hello")
        await roomy.next_answer(roomy.dm())
    assert refused.status == 429
    assert roomy.calls.early == []


async def test_calls_beside_delivery_wait_for_their_turn(roomy: DiscordServer, tmp_path: Path) -> None:
    """All but those of interactions, which are not counted and can't wait."""
    service = FakeService(Limits(2000))
    async with (
        bridge_with(scripted(ScriptedBackend()), tmp_path / "store") as bridge,
        Delivery(bridge.bot("bot"), service.chat, service.limits, budget=Budget(2, 1000.0)) as delivery,
        aiohttp.ClientSession(trace_configs=[counting_trace(delivery, URL(roomy.api_url))]) as session,
    ):

        async def call(path: str) -> int:
            async with session.get(f"{roomy.api_url}/{path}") as answer:
                return answer.status

        assert [await call("users/@me") for _ in range(2)] == [401, 401]
        third = asyncio.create_task(call("users/@me"))
        assert await call("interactions/1/token/callback") != 429
        assert len(roomy.calls.to("GET /users/@me")) == 2
        third.cancel()
