"""One answer from its first chunk to its last: shows it while it comes, and says what the messages are to hold."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from chatbridge.delivery.line import Line
from chatbridge.delivery.posting import Posting
from chatbridge.errors import ChatbridgeError, CommandError
from chatbridge.texts import say
from chatbridge.types import Chunk, Finish

log = logging.getLogger(__name__)


class Stream(Protocol):
    """What is needed of a `LiveTurn`."""

    notices: list[str]
    finish: Finish | None

    def __aiter__(self) -> AsyncIterator[Chunk]: ...


async def stream(turn: Stream, line: Line, posting: Posting) -> str:
    """Iterate over the turn and show what comes; the whole answer in Markdown, errors in words included.

    "" where there is nothing to say: the answer was stopped before it began. Then `posting.live` are messages that
    hold nothing.
    """
    posting.notices = turn.notices
    line.open(posting)
    trouble = ""
    try:
        async for chunk in turn:
            posting.feed(chunk)
            line.touch(posting)
    except CommandError as error:
        trouble = str(error)
    except ChatbridgeError as error:
        log.warning("chat %s: an answer failed: %s", line.gate.chat, error)
        trouble = say(posting.language, "trouble", why=error)
    except Exception:
        log.exception("chat %s: an answer failed", line.gate.chat)
        trouble = say(posting.language, "trouble_inside")
    finally:
        await line.close(posting)
    if not posting.source and not trouble and turn.finish is not None:
        trouble = say(posting.language, "said_nothing")
    return joined((posting.source, trouble))


def joined(paragraphs: Sequence[str]) -> str:
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
