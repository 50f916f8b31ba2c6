"""How often the stand-in Telegram lets bots call, and what tests let go wrong, against python-telegram-bot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatbridge.testing import TelegramServer
from chatbridge.testing.telegram.limits import Limits, Rate
from chatbridge.testing.wire.clock import Clock

from .telegram import bot, telegram


@pytest.fixture
async def strict() -> AsyncIterator[TelegramServer]:
    """With the real limits, and a clock that stands still until it is moved."""
    async with TelegramServer(clock=Clock(lambda: 0.0)) as server:
        yield server


async def _wait(call: object) -> int:
    with pytest.raises(telegram.error.RetryAfter) as refused:
        await call  # type: ignore[misc]
    return int(refused.value.retry_after)


async def test_one_message_a_second_after_a_burst(strict: TelegramServer) -> None:
    async with bot(strict) as caller:
        me = strict.person.id
        sent = [await caller.send_message(me, str(number)) for number in range(3)]
        await sent[0].edit_text("edits count too")
        assert await _wait(caller.send_message(me, "x")) == 5
        assert [call.early for call in strict.calls.to("send*")] == [False] * 4
        strict.clock.advance(5)
        await caller.send_message(me, "in time")
        assert not strict.calls.early


async def test_a_call_inside_a_penalty_doubles_it(strict: TelegramServer) -> None:
    async with bot(strict) as caller:
        me = strict.person.id
        for number in range(4):
            await caller.send_message(me, str(number))
        waits = [await _wait(caller.send_message(me, "x")) for _ in range(4)]
        assert waits == [5, 10, 20, 40]
        strict.clock.advance(39)
        assert await _wait(caller.send_chat_action(me, "typing")) == 80, "anything to the chat counts"
        assert len(strict.calls.early) == 4
        strict.clock.advance(80)
        await caller.send_message(me, "at last")


async def test_a_group_gets_20_a_minute_and_others_are_not_meant(strict: TelegramServer) -> None:
    group, other = strict.add_group("Group"), strict.add_group("Other")
    async with bot(strict) as caller:
        for number in range(20):
            await caller.send_message(group.id, str(number))
        assert await _wait(caller.send_message(group.id, "x")) == 5
        await caller.send_message(other.id, "x")
        strict.clock.advance(30)
        for number in range(10):
            await caller.send_message(group.id, str(number))
        assert await _wait(caller.send_message(group.id, "x")) == 5


async def test_30_a_second_over_all(strict: TelegramServer) -> None:
    groups = [strict.add_group(str(number)) for number in range(31)]
    async with bot(strict) as caller:
        for group in groups[:30]:
            await caller.send_message(group.id, "x")
        await _wait(caller.send_message(groups[30].id, "x"))
        assert len(await caller.get_updates(timeout=0)) == 0, "polls are not counted"
        assert await _wait(caller.send_message(groups[0].id, "x")) == 10


async def test_drafts_have_a_limit_of_their_own() -> None:
    limits = Limits(drafts=Rate(2, 1))
    async with TelegramServer(clock=Clock(lambda: 0.0), limits=limits) as server, bot(server) as caller:
        me = server.person.id
        await caller.send_message_draft(me, 1, "a")
        await caller.send_message_draft(me, 1, "ab")
        assert await _wait(caller.send_message_draft(me, 1, "abc")) == 5
        await caller.send_message(me, "abcd")


@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_scripted_flood(service: TelegramServer, everywhere: bool) -> None:
    group = service.add_group("Group")
    async with bot(service) as caller:
        service.faults.flood("sendMessage", 30, everywhere=everywhere)
        assert await _wait(caller.send_message(service.person.id, "x")) == 30
        if everywhere:
            assert await _wait(caller.send_message(group.id, "x")) == 60
        else:
            await caller.send_message(group.id, "x")
        assert len(service.calls.early) == everywhere
        service.clock.advance(60)
        service.faults.flood_without_word("*")
        with pytest.raises(telegram.error.TelegramError, match=r"(?i)retry later"):
            await caller.send_message(group.id, "x")


@pytest.mark.parametrize(("status", "acts"), [(500, False), (502, True), (504, False)])
async def test_errors_of_the_service(service: TelegramServer, status: int, acts: bool) -> None:
    async with bot(service) as caller:
        service.faults.error("send*", status, acts=acts)
        with pytest.raises(telegram.error.NetworkError):
            await caller.send_message(service.person.id, "x")
        assert len(service.messages()) == acts


@pytest.mark.parametrize("acts", [False, True])
async def test_a_reset_before_and_after_acting(service: TelegramServer, acts: bool) -> None:
    async with bot(service) as caller:
        await caller.send_message(service.person.id, "whole")
        (service.faults.lose_answer if acts else service.faults.reset)("sendMessage")
        with pytest.raises(telegram.error.NetworkError):
            await caller.send_message(service.person.id, "lost")
        assert (service.calls[-1].status, len(service.messages())) == (None, 1 + acts)
        assert service.faults.pending == 0


async def test_a_slow_answer_times_out_though_the_message_is_there(service: TelegramServer) -> None:
    let = asyncio.Event()
    service.faults.slow("sendMessage", let)
    async with bot(service) as caller:
        with pytest.raises(telegram.error.TimedOut):
            await caller.send_message(service.person.id, "x", read_timeout=0.1)
        await service.until(service.messages)  # on a busy machine, the caller may give up before the server has begun
        assert len(service.messages()) == 1
    let.set()


async def test_a_malformed_answer(service: TelegramServer) -> None:
    service.faults.malformed("sendMessage")
    async with bot(service) as caller:
        with pytest.raises(telegram.error.TelegramError, match="Invalid server response"):
            await caller.send_message(service.person.id, "x")
        assert len(service.messages()) == 1


async def test_faults_befall_polls_and_downloads_too(service: TelegramServer) -> None:
    service.faults.refuse("getUpdates", 409, "Conflict: terminated by other getUpdates request")
    service.faults.reset("file")
    async with bot(service) as caller:
        with pytest.raises(telegram.error.Conflict):
            await caller.get_updates(timeout=0)
        sent = await caller.send_document(service.person.id, b"content")
        file = await sent.document.get_file()
        with pytest.raises(telegram.error.NetworkError):
            await file.download_as_bytearray()
        assert bytes(await file.download_as_bytearray()) == b"content"
