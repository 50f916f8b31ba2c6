"""One answer from its first chunk to its last: shows it while it comes, then lets it be finished."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from chatbridge.delivery.sender import ChatSender
from chatbridge.delivery.streamed_message import StreamedMessage
from chatbridge.delivery.trouble import report_error
from chatbridge.texts import duration, say
from chatbridge.types import Chunk, Finish

log = logging.getLogger(__name__)

T = TypeVar("T")


class Stream(Protocol):
    """What is needed of a `ReplyStream`."""

    @property
    def notices(self) -> Sequence[str]: ...
    @property
    def finish(self) -> Finish | None: ...
    @property
    def superseded(self) -> bool: ...

    def __aiter__(self) -> AsyncIterator[Chunk]: ...


async def stream(
    reply: Stream, sender: ChatSender, streamed: StreamedMessage, finish: Callable[[str], Awaitable[T]]
) -> T:
    """Show a reply while it comes, then call `finish` with the whole answer, in Markdown and with errors in words.

    The answer is "" where there is nothing to say: it was stopped before it began. `streamed.message_ids` then are
    all the messages that show something. Answers of one chat are finished in the order in which they ended.
    """
    streamed.notices = reply.notices
    sender.open(streamed)
    trouble = ""
    try:
        async for chunk in reply:
            streamed.feed(chunk)
            streamed.status = _status(chunk, streamed.language)
            sender.touch(streamed)
    except Exception as error:
        trouble = report_error(error, streamed.language, log, "chat %s: an answer failed", sender.limiter.chat)
    except BaseException:
        sender.forget(streamed)
        raise
    # Nothing is awaited before this lock: it keeps the order in which the conversation lets its answers go.
    async with sender.order:
        try:
            await sender.close(streamed)
            if not trouble and reply.finish is not None and not reply.superseded and not streamed.text:
                trouble = _silence(reply.finish, streamed)
            return await finish("\n\n".join(filter(None, (streamed.source, trouble))))
        finally:
            sender.forget(streamed)


def _silence(finish: Finish, streamed: StreamedMessage) -> str:
    """What to say of an answer without a word."""
    if finish.reason == "length":
        return say(streamed.language, "thought_to_limit", count=finish.usage.generated)
    if finish.reply.thoughts:
        return say(streamed.language, "thought_only") if finish.reason != "cancelled" else ""
    return "" if streamed.source else say(streamed.language, "said_nothing")


def _status(chunk: Chunk, language: str) -> str:
    """What people see until the first word comes, where there is something to say."""
    waiting = chunk.waiting
    if chunk.loading:
        return say(language, "loading")
    if waiting is None:
        return ""
    if waiting.seconds is None:
        return say(language, "waiting", place=waiting.place)
    return say(language, "waiting_for", place=waiting.place, wait=duration(waiting.seconds, language))
