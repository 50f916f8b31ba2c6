"""One answer from its first chunk to its last: shows it while it comes, then lets it be finished."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from chatbridge.delivery.sender import Line
from chatbridge.delivery.streamed_message import Posting
from chatbridge.errors import ChatbridgeError, CommandError
from chatbridge.texts import duration, say
from chatbridge.types import Chunk, Finish, Waiting

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


async def stream(turn: Stream, line: Line, posting: Posting, finish: Callable[[str], Awaitable[T]]) -> T:
    """Show a turn while it comes, then hand the whole answer, in Markdown and with errors in words, to `finish`.

    It gets "" where there is nothing to say: the answer was stopped before it began. `posting.live` are then all the
    messages that show something. Answers of one chat are finished in the order in which they ended.
    """
    posting.notices = turn.notices
    line.open(posting)
    trouble = ""
    try:
        async for chunk in turn:
            posting.feed(chunk)
            if chunk.waiting is not None:
                posting.status = _in_line(chunk.waiting, posting.language)
            line.touch(posting)
    except CommandError as error:
        trouble = str(error)
    except ChatbridgeError as error:
        log.warning("chat %s: an answer failed: %s", line.gate.chat, error)
        trouble = say(posting.language, "trouble", why=error)
    except Exception:
        log.exception("chat %s: an answer failed", line.gate.chat)
        trouble = say(posting.language, "trouble_inside")
    except BaseException:
        line.forget(posting)
        raise
    # Nothing is awaited before this lock: it keeps the order in which the conversation lets its answers go.
    async with line.order:
        try:
            await line.close(posting)
            if not posting.source and not trouble and turn.finish is not None and not turn.superseded:
                trouble = say(posting.language, "said_nothing")
            return await finish("\n\n".join(filter(None, (posting.source, trouble))))
        finally:
            line.forget(posting)


def _in_line(waiting: Waiting, language: str) -> str:
    if waiting.seconds is None:
        return say(language, "waiting", place=waiting.place)
    return say(language, "waiting_for", place=waiting.place, wait=duration(waiting.seconds, language))
