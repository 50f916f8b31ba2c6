"""A backend that says what it was told to, for tests of frontends and bridges. Knows no model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence

from chatbridge.config.options import Options
from chatbridge.engine.backend import BackendType, Request
from chatbridge.errors import BackendError, PromptTooLong
from chatbridge.prompts.segments import Prompt, Special, Text
from chatbridge.types import Chunk, Finish, FinishReason, ModelInfo, Reply, Usage

Line = str | Sequence[str] | Exception
"""One answer: its text (cut into words), its pieces, or an error to be raised."""


class ScriptedBackend:
    """A `Backend` whose answers are `lines`, in order, the last one again and again.

    `requests` are those it got; `asked` is set by the first. While `hold` is set to an event, each piece but the first
    waits for it: that is how a test stops an answer in the middle.
    """

    def __init__(self, *lines: Line, info: ModelInfo | None = None) -> None:
        self.info = info or ModelInfo(
            name="scripted",
            architecture="scripted",
            context_length=100_000,
            vocab_size=256,
            fingerprint="scripted",
            vocabulary="scripted",
            eos=(),
        )
        self.requests: list[Request] = []
        self.asked = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.closed = False
        self._lines = lines or ("",)
        self._cancelled: dict[str, asyncio.Event] = {}

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        if self.closed:
            raise BackendError("the scripted backend was closed")
        line = self._lines[min(len(self.requests), len(self._lines) - 1)]
        self.requests.append(request)
        self.asked.set()
        cancelled = self._cancelled[request.id] = asyncio.Event()
        try:
            if (length := await self.count_tokens(request.prompt)) >= self.info.context_length:
                raise PromptTooLong(f"the prompt has {length} tokens, and {self.info.context_length} fit")
            pieces, reason = _cut(_pieces(line), request)
            said = ""
            for piece in pieces:
                if said and self.hold is not None:
                    await _either(self.hold, cancelled)
                if cancelled.is_set():
                    reason = "cancelled"
                    break
                said += piece
                yield Chunk(piece)
                await asyncio.sleep(0)  # whoever shares the loop gets a turn, as with a real model
            if isinstance(line, Exception):
                raise line
            usage = Usage(prompt=length, generated=len(pieces), seconds=1.0)
            yield Chunk(finish=Finish(reason, Reply(said), usage))
        finally:
            del self._cancelled[request.id]

    def cancel(self, request_id: str) -> None:
        if (cancelled := self._cancelled.get(request_id)) is not None:
            cancelled.set()

    async def count_tokens(self, prompt: Prompt) -> int:
        """One for each byte and control token."""
        return sum(
            len(part.text.encode()) if isinstance(part, Text) else 1 if isinstance(part, Special) else len(part.ids)
            for part in prompt
        )

    async def aclose(self) -> None:
        self.closed = True
        for cancelled in self._cancelled.values():
            cancelled.set()


def scripted(backend: ScriptedBackend) -> BackendType:
    """A backend type named `scripted`, without options, that is always just that backend."""

    async def connect(options: Options) -> ScriptedBackend:
        return backend

    return BackendType("scripted", Options, "says what a test told it to", connect=connect)


def _pieces(line: Line) -> list[str]:
    if isinstance(line, Exception):
        return []
    return re.findall(r"\s*\S+", line.strip()) if isinstance(line, str) else list(line)


def _cut(pieces: list[str], request: Request) -> tuple[list[str], FinishReason]:
    """The pieces up to the request's first stop string, and no more of them than it wants tokens."""
    text = "".join(pieces)
    ends = (*request.stop, *request.sampling.stop, *(f"\n{head}" for head in request.speakers))
    stops = [at for stop in ends if (at := text.find(stop)) >= 0]
    if stops:
        return _pieces(text[: min(stops)]), "stop"
    limit = request.sampling.max_tokens
    return pieces[:limit], "length" if len(pieces) > limit else "end"


async def _either(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
