"""A backend whose answer can be told from the question, at a pace of its own. Knows no model."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable

from chatbridge.delivery.clock import Clock, LoopClock
from chatbridge.engine.backend import Request
from chatbridge.testing.script import ScriptedBackend
from chatbridge.types import Chunk, Finish, FinishReason, Reply, Usage


class EchoBackend(ScriptedBackend):
    """A `Backend` that gives each last message of a person its `answer`, word by word: in upper case by default.

    `pauses` gives the seconds before each word, by `clock`. Unlike a script it can serve many chats at once.
    """

    def __init__(
        self,
        answer: Callable[[str], str] = str.upper,
        pauses: Callable[[], float] = lambda: 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self._answer = answer
        self._pauses = pauses
        self._clock = clock or LoopClock()
        self._stopped: set[str] = set()

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        self.asked.set()
        said = ""
        question = next(turn.text for turn in reversed(request.turns) if turn.role == "user")
        for word in re.findall(r"\S+\s*", self._answer(question)):
            await self._clock.sleep(self._pauses())
            if request.id in self._stopped:
                break
            said += word
            yield Chunk(word)
        reason: FinishReason = "cancelled" if request.id in self._stopped else "end"
        yield Chunk(finish=Finish(reason, Reply(said.strip()), Usage(prompt=10, generated=len(said.split()))))

    def cancel(self, request_id: str) -> None:
        self._stopped.add(request_id)
