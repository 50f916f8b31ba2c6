"""One chat's sender alone: what it shows, what it waits for, and what it says in the place of what is refused."""

from __future__ import annotations

import asyncio

from chatbridge import Chunk, Limits, MessageContent, Unreachable
from chatbridge.delivery.clock import LoopClock
from chatbridge.delivery.rate_limiter import Cooldowns, RateLimiter
from chatbridge.delivery.sender import ChatSender, FinalMessage
from chatbridge.delivery.streamed_message import StreamedMessage
from chatbridge.texts import say


class SlowChat:
    """A chat whose messages arrive when the test says so, after so many that do not."""

    def __init__(self, failures: int = 0) -> None:
        self.called, self.free, self.failures = asyncio.Event(), asyncio.Event(), failures
        self.shown: list[str] = []

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        self.called.set()
        await self.free.wait()
        if self.failures:
            self.failures -= 1
            raise Unreachable("down")
        return "m"

    async def edit(self, id: str, content: MessageContent) -> None:
        self.shown.append(content.text)


def sender_of(chat: SlowChat) -> tuple[ChatSender, StreamedMessage]:
    limits = Limits(2000, first_preview=0.0, preview_every=0.0, preview_slowest=0.0, typing_every=0)
    limiter = RateLimiter("c", limits, Cooldowns())
    streamed = StreamedMessage(limits)
    streamed.feed(Chunk("words"))
    return ChatSender(chat, limiter, LoopClock(), None), streamed  # type: ignore[arg-type]


async def test_whoever_closes_an_answer_waits_for_the_call_that_shows_it() -> None:
    chat = SlowChat()
    sender, streamed = sender_of(chat)
    sender.open(streamed)
    await chat.called.wait()
    closing = asyncio.create_task(sender.close(streamed))
    await asyncio.sleep(0)
    assert not closing.done()
    chat.free.set()
    await closing
    assert streamed.message_ids == ["m"]
    await sender.aclose()


async def test_a_preview_that_failed_is_tried_again_and_one_that_went_well_is_enough() -> None:
    chat = SlowChat(failures=2)
    sender, streamed = sender_of(chat)
    chat.free.set()
    sender.open(streamed)
    while (work := sender.work) is not None:
        await work
    assert (chat.failures, chat.shown) == (0, ["words"])
    sender.forget(streamed)
    await sender.aclose()


async def test_a_sender_that_was_closed_begins_nothing_more() -> None:
    sender, streamed = sender_of(SlowChat())
    await sender.aclose()
    sender.open(streamed)
    assert sender.work is None


def test_an_error_notice_has_its_reference_where_there_is_room_for_both() -> None:
    whole = f"{say('en', 'part_refused')} {say('en', 'reference', reference='out-7')}"
    for length, told in ((len(whole), whole), (len(whole) - 1, say("en", "part_refused"))):
        limiter = RateLimiter("c", Limits(length), Cooldowns())
        sender = ChatSender(None, limiter, LoopClock(), None)  # type: ignore[arg-type]
        message = FinalMessage(
            "send", variant="error_notice", outbox_id=7, content=MessageContent("x", ends_answer=True)
        )
        assert sender._content(message) == MessageContent(told, ends_answer=True)
