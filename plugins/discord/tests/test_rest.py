"""One call, made once: what its answers mean, and that Discord's word on its limits is heeded before it has to act."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from chatbridge_discord.chat import DiscordChat
from chatbridge_discord.failures import error_of, unanswered
from chatbridge_discord.rest import Rest

from chatbridge import ContentRejected, MessageContent, NotFound, OutcomeUnknown, RateLimited, Unreachable
from chatbridge.testing import DiscordServer

from .conftest import options_for


@pytest.fixture
async def server() -> AsyncIterator[DiscordServer]:
    async with DiscordServer() as server:
        yield server


@pytest.fixture
async def rest(server: DiscordServer) -> AsyncIterator[Rest]:
    async with Rest(server.bot.token, server.api_url, server.clock) as rest:
        yield rest


async def test_a_call_that_is_known_to_be_too_early_is_not_made(server: DiscordServer, rest: Rest) -> None:
    chat = DiscordChat(rest, str(server.general.id), options_for(server))
    sent = [await chat.send(MessageContent(f"{number}"), reply_to=None, nonce=f"{number}") for number in range(5)]
    with pytest.raises(RateLimited) as early:
        await chat.send(MessageContent("6"), reply_to=None, nonce="6")
    assert early.value.seconds is not None
    assert (0 < early.value.seconds <= 5, early.value.scope) == (True, "route")
    await chat.edit(sent[0], MessageContent("another bucket"))
    assert len(server.calls.to("POST /channels/*/messages")) == 5
    server.clock.advance(early.value.seconds)
    await chat.send(MessageContent("6"), reply_to=None, nonce="6")
    assert server.calls.early == []


async def test_a_penalty_is_told_at_once(server: DiscordServer, rest: Rest) -> None:
    server.faults.rate_limit("POST /channels/*/typing", 30)
    chat = DiscordChat(rest, str(server.general.id), options_for(server))
    async with asyncio.timeout(5):
        with pytest.raises(RateLimited):
            await chat.typing()


async def test_a_second_try_leaves_one_message(server: DiscordServer, rest: Rest) -> None:
    chat = DiscordChat(rest, str(server.general.id), options_for(server))
    first = await chat.send(MessageContent("…"), reply_to=None, nonce="n")
    for text in ("words", "x" * 3000):
        assert await chat.send(MessageContent(text), reply_to=None, nonce="n") == first
        assert [message.text for message in server.messages()] == [text]


async def test_a_message_of_components_from_before_a_restart_is_edited(server: DiscordServer, rest: Rest) -> None:
    id = await DiscordChat(rest, str(server.general.id), options_for(server)).send(
        MessageContent("x" * 3000), reply_to=None, nonce="n"
    )
    chat = DiscordChat(rest, str(server.general.id), options_for(server))
    with pytest.raises(Unreachable):
        await chat.edit(id, MessageContent("short"))
    await chat.edit(id, MessageContent("short"))
    assert [message.text for message in server.messages()] == ["short"]


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (400, {"code": 50035, "message": "Invalid Form Body", "errors": {"content": {}}}, ContentRejected),
        (400, {"code": 50006, "message": "Cannot send an empty message"}, ContentRejected),
        (400, {"code": 50083, "message": "Thread is archived"}, NotFound),
        (401, {"code": 0, "message": "401: Unauthorized"}, Unreachable),
        (403, {"code": 50013, "message": "Missing Permissions"}, NotFound),
        (403, {"code": 50007, "message": "Cannot send messages to this user"}, NotFound),
        (404, {"code": 10008, "message": "Unknown Message"}, NotFound),
        (413, None, ContentRejected),
        (500, None, OutcomeUnknown),
        (502, None, OutcomeUnknown),
        (503, None, Unreachable),
    ],
)
def test_what_an_answer_means(status: int, answer: object, kind: type[Exception]) -> None:
    error = error_of(status, {}, answer)
    assert type(error) is kind
    assert str(status) in str(error)


@pytest.mark.parametrize(
    ("headers", "answer", "seconds", "scope"),
    [
        ({"X-RateLimit-Scope": "user"}, {"retry_after": 1.5, "global": False}, 1.5, "route"),
        ({"X-RateLimit-Scope": "shared"}, {"retry_after": 20, "global": False}, 20, "route"),
        ({"X-RateLimit-Scope": "global"}, {"retry_after": 0.5, "global": True}, 0.5, "global"),
        ({"Retry-After": "60"}, None, 60, "global"),
        ({}, None, None, "global"),
    ],
)
def test_what_a_penalty_means(headers: dict[str, str], answer: object, seconds: float | None, scope: str) -> None:
    error = error_of(429, headers, answer)
    assert isinstance(error, RateLimited)
    assert (error.seconds, error.scope) == (seconds, scope)


def test_what_no_answer_means() -> None:
    assert type(unanswered(aiohttp.ServerDisconnectedError())) is OutcomeUnknown
    assert type(unanswered(TimeoutError())) is OutcomeUnknown
    assert type(unanswered(aiohttp.ConnectionTimeoutError())) is Unreachable


async def test_a_server_that_is_not_there_is_unreachable(unused_tcp_port: int) -> None:
    async with Rest("token", f"http://127.0.0.1:{unused_tcp_port}/api/v10", lambda: 0.0) as rest:
        with pytest.raises(Unreachable):
            await rest.call("GET", "/users/@me")
