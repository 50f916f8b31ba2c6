"""Runs a model in a worker process of its own, and is a `Backend` to everybody else.

A worker that dies is started again, and what it was answering goes on from the token that it had come to, once.
Knows requests and what becomes of them; how processes are started and watched is `process`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from chatbridge.engine.backend import BackendType, Request
from chatbridge.errors import BackendError, ChatbridgeError, InvalidRequest, ModelLoadError, WorkerDied
from chatbridge.prompts.segments import Prompt
from chatbridge.types import Chunk, Finish, ModelInfo, Reply, Usage
from chatbridge.worker.process import WorkerProcess
from chatbridge.worker.protocol import (
    Cancel,
    Close,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Query,
    QueryResult,
    RequestEvent,
    ToWorker,
    plain_options,
)

log = logging.getLogger(__name__)

_GRACE = 5.0
"""Seconds that a worker has to end by itself."""


@dataclass(slots=True)
class _Pending:
    """A request on its way: what came of it so far, enough to go on with it in another worker."""

    request: Request
    events: asyncio.Queue[Chunk | ChatbridgeError] = field(default_factory=asyncio.Queue)
    tokens: list[int] = field(default_factory=list)
    submitted: bool = False
    retried: bool = False
    cancelled: bool = False


class WorkerBackend:
    """A `Backend` whose `LocalModel` lives in a process; `start` it first.

    `on_progress(share, doing)` is called while the model loads.
    """

    def __init__(
        self,
        kind: BackendType,
        options: BaseModel,
        *,
        name: str = "",
        max_batch: int | None = None,
        on_progress: Callable[[float, str], None] | None = None,
    ) -> None:
        assert kind.load is not None, f"backend {kind.name!r} has no load="
        self._kind = kind
        self._options = options
        self._name = name or kind.name
        self._max_batch = max_batch
        self._on_progress = on_progress
        self._info: ModelInfo | None = None
        self._worker: WorkerProcess | None = None
        self._starting = asyncio.Lock()
        self._closed = False
        self._pending: dict[str, _Pending] = {}
        self._queries: dict[int, asyncio.Future[Any]] = {}
        self._next_query = 0
        self._watching: asyncio.Task[None] | None = None

    @property
    def info(self) -> ModelInfo:
        assert self._info is not None, "start() the backend first"
        return self._info

    @property
    def pid(self) -> int | None:
        """The worker's process id, while it lives."""
        return self._worker.process.pid if self._worker is not None else None

    async def start(self) -> None:
        """Start the worker and load the model, unless it is there. Raises ModelLoadError."""
        async with self._starting:
            if self._closed:
                raise BackendError(f"the model {self._name!r} was closed")
            if self._worker is not None:
                return
            worker = await WorkerProcess.start()
            try:
                self._info = await self._load(worker)
            except BaseException:
                await worker.end()
                raise
            self._worker = worker
            self._watching = asyncio.create_task(self._watch(worker))

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """See `Backend.generate`. Raises WorkerDied if the worker dies under the request twice."""
        if request.id in self._pending:
            raise InvalidRequest(f"a request {request.id!r} is on its way already")
        pending = self._pending[request.id] = _Pending(request)
        finished = False
        try:
            await self.start()
            self._submit(pending)
            while not finished:
                event = await pending.events.get()
                finished = isinstance(event, ChatbridgeError) or event.finish is not None
                if isinstance(event, ChatbridgeError):
                    raise event
                yield event
        finally:
            del self._pending[request.id]
            if not finished:
                self._send(Cancel(request.id))

    def cancel(self, request_id: str) -> None:
        """See `Backend.cancel`."""
        if (pending := self._pending.get(request_id)) is not None:
            pending.cancelled = True
            self._send(Cancel(request_id))

    async def tokenize(self, prompt: Prompt) -> list[int]:
        """The ids of `prompt`. Raises TemplateError."""
        ids: list[int] = await self._query(prompt)
        return ids

    async def count_tokens(self, prompt: Prompt) -> int:
        """See `Backend.count_tokens`."""
        return len(await self.tokenize(prompt))

    async def stats(self) -> dict[str, Any]:
        """The engine's counts; see `Engine.stats`."""
        counts: dict[str, Any] = await self._query(None)
        return counts

    async def aclose(self) -> None:
        """See `Backend.aclose`. The process is gone afterwards."""
        self._closed = True
        async with self._starting:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.send(Close())
            await worker.end(grace=_GRACE)
        if self._watching is not None:
            await self._watching
        for pending in self._pending.values():
            pending.events.put_nowait(Chunk(finish=Finish("cancelled", Reply(""), Usage())))

    # --- talking to the worker ---------------------------------------------------------------------------------

    async def _load(self, worker: WorkerProcess) -> ModelInfo:
        function = self._kind.load
        assert function is not None
        worker.send(
            Load(
                module=function.__module__,
                function=function.__qualname__,
                options_module=type(self._options).__module__,
                options_class=type(self._options).__qualname__,
                options=plain_options(self._options),
                max_batch=self._max_batch,
                paths=sys.path,
            )
        )
        while (message := await worker.receive()) is not None:
            if isinstance(message, Loaded):
                return replace(message.info, name=self._name)
            if isinstance(message, LoadFailed):
                error = message.failure.error()
                raise error if isinstance(error, ModelLoadError) else ModelLoadError(f"{self._name}: {error}")
            if isinstance(message, Loading) and self._on_progress is not None:
                self._on_progress(message.share, message.doing)
        raise ModelLoadError(f"the model {self._name!r} could not be loaded: {await worker.exit_reason()}")

    async def _watch(self, worker: WorkerProcess) -> None:
        """Hand out what the worker says, until it ends; then see to what it leaves behind."""
        while (message := await worker.receive()) is not None:
            if isinstance(message, RequestEvent):
                self._hand_out(message)
            elif isinstance(message, QueryResult) and (result := self._queries.pop(message.id, None)) is not None:
                if result.done():
                    continue
                if message.failure is not None:
                    result.set_exception(message.failure.error())
                else:
                    result.set_result(message.value)
        reason = await worker.exit_reason()
        queries, self._queries = self._queries, {}
        if self._worker is worker:
            self._worker = None
            log.error("the worker of model %s died: %s", self._name, reason)
        for result in queries.values():
            if not result.done():
                result.set_exception(WorkerDied(f"the process of model {self._name!r} died: {reason}"))
        if not self._closed:
            await self._resume_requests(reason)

    def _hand_out(self, message: RequestEvent) -> None:
        pending = self._pending.get(message.id)
        if pending is None:  # whoever asked is gone
            return
        pending.tokens += message.tokens
        if message.failure is not None:
            pending.events.put_nowait(message.failure.error())
        elif message.chunk is not None:
            pending.events.put_nowait(message.chunk)

    async def _resume_requests(self, exit_reason: str) -> None:
        """Go on with what a dead worker was answering, in a new one; each request gets that once."""
        orphans = [pending for pending in self._pending.values() if pending.submitted]
        retries = [pending for pending in orphans if not pending.retried]
        for pending in orphans:
            if pending.retried:
                pending.events.put_nowait(
                    WorkerDied(f"the process of model {self._name!r} died twice under this answer: {exit_reason}")
                )
            pending.retried = True
        if not retries:
            return
        try:
            await self.start()
        except ChatbridgeError as error:
            for pending in retries:
                pending.events.put_nowait(error)
            return
        for pending in retries:
            if pending.request.id in self._pending:
                self._submit(pending)

    def _submit(self, pending: _Pending) -> None:
        request = pending.request
        pending.submitted = True
        try:
            # The turns are for servers that take no prompt; here they would be the prompt once more.
            self._send(Generate(replace(request, turns=(), resume=(*request.resume, *pending.tokens))))
        except ValueError as error:
            pending.events.put_nowait(InvalidRequest(f"the request can't be sent to the model: {error}"))
            return
        if pending.cancelled:
            self._send(Cancel(request.id))

    async def _query(self, prompt: Prompt | None) -> Any:
        await self.start()
        self._next_query += 1
        result = self._queries[self._next_query] = asyncio.get_running_loop().create_future()
        self._send(Query(self._next_query, prompt))
        return await result

    def _send(self, message: ToWorker) -> None:
        if self._worker is not None:
            self._worker.send(message)
