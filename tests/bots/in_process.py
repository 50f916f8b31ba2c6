"""The toy model on an engine in this process: it says what it says in a worker, which takes long to start.

Knows no bot. That a worker says the same, tests/worker holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from chatbridge import BackendError, BackendType, Chunk, ModelInfo, Prompt, Request
from chatbridge.engine.engine import Engine
from chatbridge.testing.toy import ToyOptions, load_toy


class InProcess:
    """A `Backend` on an engine of its own; after each step everybody else has a turn."""

    def __init__(self, options: ToyOptions) -> None:
        self._model = load_toy(options, lambda share, doing: None)
        self._engine = Engine(self._model)
        self._told: dict[str, asyncio.Queue[Chunk | BaseException]] = {}
        self._stepping: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        if self._closed:
            raise BackendError("the model was closed")
        told = self._told[request.id] = asyncio.Queue()
        self._engine.submit(request)
        self._step()
        chunk = Chunk()
        try:
            while chunk.finish is None:
                event = await told.get()
                if isinstance(event, BaseException):
                    raise event
                chunk = event
                yield chunk
        finally:
            del self._told[request.id]
            self.cancel(request.id)

    def _step(self) -> None:
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._steps())

    async def _steps(self) -> None:
        while not self._engine.idle:
            for event in self._engine.step():
                told = event.error or event.chunk
                if told is not None and event.request_id in self._told:
                    self._told[event.request_id].put_nowait(told)
            await asyncio.sleep(0)

    def cancel(self, request_id: str) -> None:
        self._engine.cancel(request_id)
        self._step()

    async def count_tokens(self, prompt: Prompt) -> int:
        if self._closed:
            raise BackendError("the model was closed")
        return len(self._engine.tokenize(prompt))

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        for request_id in tuple(self._told):
            self.cancel(request_id)
        if self._stepping is not None:
            await self._stepping
        self._engine.close()


async def _connect(options: ToyOptions) -> InProcess:
    return InProcess(options)


in_process = BackendType("toy", ToyOptions, "the toy model in this process", connect=_connect)
