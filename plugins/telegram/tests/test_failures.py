"""What the real library raises, told in delivery's words; and what is no failure at all."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import telegram as library
from chatbridge_telegram.bot import LOGGERS_WITH_TOKEN, NOISY_LOGGERS
from chatbridge_telegram.channels import ChatAddress
from chatbridge_telegram.chat import TelegramChat
from chatbridge_telegram.failures import chat_error
from chatbridge_telegram.options import TelegramOptions
from chatbridge_telegram.request import Request
from telegram.error import RetryAfter

from chatbridge import (
    ChatError,
    ContentRejected,
    MessageContent,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Unreachable,
    redacted,
)
from chatbridge.testing import TelegramServer

HELLO = MessageContent("hello")


@pytest.fixture
async def chat(roomy: TelegramServer) -> AsyncIterator[TelegramChat]:
    """The private chat, called directly."""
    options = TelegramOptions(token=roomy.bot.token)
    with redacted(roomy.bot.token, LOGGERS_WITH_TOKEN, NOISY_LOGGERS):
        given = Request(), Request(1)
        async with library.Bot(roomy.bot.token, roomy.api_url, roomy.file_url, *given) as client:
            yield TelegramChat(client, ChatAddress(roomy.person.id), options)


FAULTS = {
    "429": (lambda faults: faults.flood("*", 7), RateLimited),
    "429 without a word": (lambda faults: faults.flood_without_word("*"), RateLimited),
    "500": (lambda faults: faults.error("*", 500), OutcomeUnknown),
    "502": (lambda faults: faults.error("*", 502), OutcomeUnknown),
    "reset": (lambda faults: faults.reset("*"), OutcomeUnknown),
    "malformed": (lambda faults: faults.malformed("*"), OutcomeUnknown),
    "nested": (lambda faults: faults.nested("*"), OutcomeUnknown),
    "no such method": (lambda faults: faults.refuse("*", 404, "Not Found: method not found"), ContentRejected),
    "no such format": (lambda faults: faults.refuse("*", 400, "Bad Request: can't parse entities: x"), ContentRejected),
    "too long": (lambda faults: faults.refuse("*", 400, "Bad Request: message is too long"), ContentRejected),
    "blocked": (lambda faults: faults.refuse("*", 403, "Forbidden: bot was blocked by the user"), NotFound),
    "no chat": (lambda faults: faults.refuse("*", 400, "Bad Request: chat not found"), NotFound),
    "no message": (lambda faults: faults.refuse("*", 400, "Bad Request: message to edit not found"), NotFound),
    "no rights": (
        lambda faults: faults.refuse("*", 400, "Bad Request: not enough rights to send text messages"),
        NotFound,
    ),
    "closed": (lambda faults: faults.refuse("*", 400, "Bad Request: TOPIC_CLOSED"), NotFound),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_each_failure_is_told_in_delivery_s_words(roomy: TelegramServer, chat: TelegramChat, name: str) -> None:
    script, kind = FAULTS[name]
    script(roomy.faults)
    with pytest.raises(ChatError) as failed:
        await chat.send(HELLO, reply_to=None, nonce="1")
    assert type(failed.value) is kind
    assert not isinstance(failed.value, RateLimited) or (failed.value.seconds, failed.value.scope) == (
        7 if name == "429" else None,
        "chat",
    )


@pytest.mark.parametrize("nonsense", [None])
def test_a_time_that_is_none_is_not_taken(nonsense: object) -> None:
    error = chat_error(RetryAfter(nonsense))  # type: ignore[arg-type]
    assert isinstance(error, RateLimited)
    assert error.seconds is None


def test_a_time_is_taken_as_it_is_said() -> None:
    error = chat_error(RetryAfter(7))
    assert isinstance(error, RateLimited)
    assert error.seconds == 7


async def test_what_was_never_sent_is_known_to_be_without_effect() -> None:
    async with TelegramServer() as server:
        client = library.Bot(server.bot.token, server.api_url, server.file_url)
        await client.initialize()
    chat = TelegramChat(client, ChatAddress(server.person.id), TelegramOptions(token=server.bot.token))
    for _ in range(2):  # the first may go down a connection that the server has closed
        with pytest.raises(ChatError) as failed:
            await chat.send(HELLO, reply_to=None, nonce="1")
    assert type(failed.value) is Unreachable
    await client.shutdown()


async def test_an_edit_that_changes_nothing_is_no_failure(roomy: TelegramServer, chat: TelegramChat) -> None:
    id = await chat.send(HELLO, reply_to=None, nonce="1")
    await chat.edit(id, HELLO)
    assert [call.status for call in roomy.calls.to("editMessageText")] == [400]
    await chat.delete(id)
    with pytest.raises(NotFound):
        await chat.delete(id)


async def test_a_reply_to_a_message_that_is_gone_is_sent_all_the_same(
    roomy: TelegramServer, chat: TelegramChat
) -> None:
    await chat.send(HELLO, reply_to="99", nonce="1")
    assert [message.text for message in roomy.messages()] == ["hello"]
