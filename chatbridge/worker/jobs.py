"""What a worker is asked for, and what came of it so far. Knows no process, and no order of things."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from chatbridge.engine.backend import Request
from chatbridge.errors import ChatbridgeError
from chatbridge.prompts.segments import Prompt
from chatbridge.types import Chunk, Finish, Reply, Usage
from chatbridge.worker.recovery import Job


@dataclass(slots=True, eq=False)
class Answer(Job):
    """A request on its way: what came of it so far, enough to go on with it in another worker."""

    request: Request = field(kw_only=True)
    events: asyncio.Queue[Chunk | ChatbridgeError] = field(default_factory=asyncio.Queue)
    text: list[str] = field(default_factory=list)
    cancelled: bool = False

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
