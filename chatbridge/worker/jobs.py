"""What a worker is asked for, and what came of it so far. Knows no process, and no order of things."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from chatbridge.engine.backend import Request
from chatbridge.errors import ChatbridgeError
from chatbridge.prompts.segments import Prompt
from chatbridge.types import Chunk, Finish, Reply, Usage
from chatbridge.worker.protocol import Generate, Query
from chatbridge.worker.recovery import Job


@dataclass(slots=True, eq=False)
class Answer(Job):
    """A request on its way: what came of it so far, enough to go on with it in another worker."""

    request: Request = field(kw_only=True)
    events: asyncio.Queue[Chunk | ChatbridgeError] = field(default_factory=asyncio.Queue)
    text: list[str] = field(default_factory=list)
    cancelled: bool = False

    def message(self) -> Generate:
        """What asks a worker for all that has not come yet.

        The turns are for servers that take no prompt; here they would be the prompt once more. What has come so far
        goes back as it was sampled, control tokens too: it is this one answer, which the model would have read just so
        without a death, and which forges nobody's turn; for later prompts see `prompts.reply_ids`.
        """
        request = self.request
        return Generate(replace(request, turns=(), resume=(*request.resume, *self.tokens)))

    def fail(self, error: ChatbridgeError) -> None:
        """Nothing more comes of it."""
        self.events.put_nowait(error)

    def cancelled_finish(self) -> Chunk:
        """The end of a request that no worker has: with what people saw of it."""
        return Chunk(finish=Finish("cancelled", Reply("".join(self.text).strip()), Usage(generated=len(self.tokens))))


@dataclass(slots=True, eq=False)
class Question(Job):
    """A text to be tokenised (`count`: or only counted), or, without a prompt, a question for the engine's counts."""

    number: int = field(kw_only=True)
    prompt: Prompt | None = field(kw_only=True)
    count: bool = field(kw_only=True)
    result: asyncio.Future[Any] = field(kw_only=True)

    def message(self) -> Query:
        """What asks a worker."""
        return Query(self.number, self.prompt, self.count)

    def fail(self, error: ChatbridgeError) -> None:
        """There is no result."""
        if not self.result.done():
            self.result.set_exception(error)

    def answer(self, value: Any) -> None:
        """There is one."""
        if not self.result.done():
            self.result.set_result(value)
