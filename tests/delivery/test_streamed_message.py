"""What shows an answer while it is written: one call a step, and none that could show it twice."""

from __future__ import annotations

from typing import Literal

import pytest

from chatbridge import Chunk, Limits, MessageContent, OutcomeUnknown
from chatbridge.delivery.streamed_message import StreamedMessage


class LosingChat:
    """A chat in which each message may have been sent, or not."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        self.sent += 1
        raise OutcomeUnknown("the answer to the call got lost")


class PlainChat:
    """A chat in which all goes well."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        self.calls.append("send")
        return str(len(self.calls))

    async def edit(self, id: str, content: MessageContent) -> None:
        self.calls.append("edit")

    async def draft(self, id: int, content: MessageContent) -> None:
        self.calls.append("draft")


@pytest.mark.parametrize("previews", ["edit", "draft"])
async def test_each_step_tells_which_route_it_has_called(
    previews: Literal["edit", "draft"],
) -> None:
    chat, streamed = PlainChat(), StreamedMessage(Limits(2000, previews=previews))
    told: list[str | None] = []
    for chunk in ("hello", " world", ""):
        streamed.feed(Chunk(chunk))
        while await streamed.step(chat):
            told.append(streamed.route)
        told.append(streamed.route)
    assert [route for route in told if route] == chat.calls
    assert told[-1] is None, "there was nothing to do"


async def test_after_a_message_that_may_be_there_nothing_more_is_to_be_shown() -> None:
    chat, streamed = LosingChat(), StreamedMessage(Limits(2000))
    streamed.feed(Chunk("hello"))
    with pytest.raises(OutcomeUnknown):
        await streamed.step(chat)
    for _ in range(2):
        assert await streamed.step(chat) is False
    assert chat.sent == 1, "a second one might show it twice"


async def test_where_nonces_are_known_it_is_tried_again() -> None:
    chat, streamed = LosingChat(), StreamedMessage(Limits(2000, idempotent=True), key="k")
    streamed.feed(Chunk("hello"))
    for tries in (1, 2):
        with pytest.raises(OutcomeUnknown):
            await streamed.step(chat)
        assert chat.sent == tries
    assert streamed.uncertain_nonce == "k-0"
