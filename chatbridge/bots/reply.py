"""One answer on its way, and what is known of it when it ended. Knows nothing of how the model is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from chatbridge.texts import say
from chatbridge.types import Author, Channel, Chunk, Finish, Message

if TYPE_CHECKING:
    from chatbridge.bots.dialogue import Dialogue
    from chatbridge.engine.backend import Backend
    from chatbridge.store import Node

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Notice:
    """What a chat command says at once, without the model."""

    text: str


@dataclass(frozen=True, slots=True)
class FinishedReply:
    """An answer that ended, as observers see it: `finish` is set, or, where the answer failed, `error`."""

    bot: str
    channel: Channel
    model: str
    finish: Finish | None
    error: str = ""
    author: Author | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What the model is to do: answer the message `asked`, or go on with the `unfinished` answer to it."""

    asked: Node
    unfinished: Node | None = None


Begin = Callable[["ReplyStream"], Awaitable[Task | None]]
"""Moves the conversation to where an answer is wanted; None where there is nothing to answer (again)."""


class ReplyStream:
    """One answer on its way: iterate over it, once, for its chunks. It begins when the conversation is free.

    `notices` are lines for the person, complete with the first chunk. `stop()` ends the answer early and keeps
    what came. The model's errors are raised from the iteration; the person's message is kept then, too.
    `so_far`: gives the answer that it goes on with, where it does. `author`: whom the answer is for. `message`: what
    it answers, until it begins; what comes later is a matter of the conversation. `node`: where it is kept, once it
    ended. `superseded`: a later message is answered in its place.
    """

    def __init__(
        self,
        dialogue: Dialogue,
        language: str,
        begin: Begin,
        *,
        message: Message | None = None,
        gives_way: bool = False,
        so_far: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self.language = language
        self.message = message
        self.notices: list[str] = []
        self.finish: Finish | None = None
        self.author: Author | None = None
        self.node: int | None = None
        self.superseded = False
        self.gives_way = gives_way
        self.so_far = so_far
        self._dialogue = dialogue
        self._begin = begin
        self._stopped = False
        self._running: tuple[Backend, str] | None = None

    def stop(self) -> None:
        """End the answer early; may be called at any time, also before it has begun."""
        self._stopped = True
        if self._running is not None:
            backend, request_id = self._running
            backend.cancel(request_id)

    def supersede(self) -> None:
        """End it because a later message is to be answered instead."""
        self.superseded = True
        self.stop()

    async def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        dialogue = self._dialogue
        dialogue.waiting.append(self)
        try:
            await dialogue.lock.acquire()
        finally:
            dialogue.waiting.remove(self)
        try:
            if self._stopped and (self.superseded or self.message is None):
                return
            dialogue.live = self
            task = await _whole(self._begin(self))  # also where it was stopped: what a person has said is kept
            if task is None:
                if not self.superseded:
                    self.notices.append(say(self.language, "not_changed"))
                return
            if self._stopped:
                return
            async with aclosing(dialogue.answer(self, task)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            dialogue.live = None
            dialogue.lock.release()

    def watch(self, backend: Backend, request_id: str) -> bool:
        """Remember what `stop` has to cancel; False where it was called already, and nothing is to be begun."""
        self._running = (backend, request_id)
        return not self._stopped


async def _whole(begin: Awaitable[T]) -> T:
    """Begin and, where that is cancelled, end the beginning before: it is short, and half of it would lose words."""
    work = asyncio.ensure_future(begin)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
