"""Runs a model in a worker process of its own, and is a `Backend` to everybody else.

A worker that dies is started again, and what it was answering goes on from the token that it had come to, once.
Knows processes and sockets; knows no model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from chatbridge.engine.contract import BackendType, Request
from chatbridge.engine.transport import (
    LINE_LIMIT,
    Answered,
    Ask,
    Cancel,
    Close,
    FromWorker,
    Generate,
    Happened,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    ToWorker,
    plain_options,
    read_from_worker,
    to_worker,
)
from chatbridge.errors import BackendError, ChatbridgeError, InvalidRequest, ModelLoadError, WorkerDied
from chatbridge.prompts.segments import Prompt
from chatbridge.types import Chunk, Finish, ModelInfo, Reply, Usage

log = logging.getLogger(__name__)

_GRACE = 5.0
"""Seconds that a worker has to end by itself."""

_LAST_WORDS = 2000
"""Bytes of a worker's output that are kept for the error message."""


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
        self._worker: _Process | None = None
        self._starting = asyncio.Lock()
        self._closed = False
        self._pending: dict[str, _Pending] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._next_call = 0
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
            worker = await _Process.start()
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
        ids: list[int] = await self._ask(prompt)
        return ids

    async def count_tokens(self, prompt: Prompt) -> int:
        """See `Backend.count_tokens`."""
        return len(await self.tokenize(prompt))

    async def stats(self) -> dict[str, Any]:
        """The engine's counts; see `Engine.stats`."""
        counts: dict[str, Any] = await self._ask(None)
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

    async def _load(self, worker: _Process) -> ModelInfo:
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
        raise ModelLoadError(f"the model {self._name!r} could not be loaded: {await worker.how_it_ended()}")

    async def _watch(self, worker: _Process) -> None:
        """Hand out what the worker says, until it ends; then see to what it leaves behind."""
        while (message := await worker.receive()) is not None:
            if isinstance(message, Happened):
                self._happened(message)
            elif isinstance(message, Answered) and (call := self._calls.pop(message.call, None)) is not None:
                if call.done():
                    continue
                if message.failure is not None:
                    call.set_exception(message.failure.error())
                else:
                    call.set_result(message.value)
        how = await worker.how_it_ended()
        calls, self._calls = self._calls, {}
        if self._worker is worker:
            self._worker = None
            log.error("the worker of model %s died: %s", self._name, how)
        for call in calls.values():
            if not call.done():
                call.set_exception(WorkerDied(f"the process of model {self._name!r} died: {how}"))
        if not self._closed:
            await self._take_over(how)

    def _happened(self, message: Happened) -> None:
        pending = self._pending.get(message.id)
        if pending is None:  # whoever asked is gone
            return
        pending.tokens += message.tokens
        if message.failure is not None:
            pending.events.put_nowait(message.failure.error())
        elif message.chunk is not None:
            pending.events.put_nowait(message.chunk)

    async def _take_over(self, how: str) -> None:
        """Go on with what a dead worker was answering, in a new one; each request gets that once."""
        orphans = [pending for pending in self._pending.values() if pending.submitted]
        again = [pending for pending in orphans if not pending.retried]
        for pending in orphans:
            if pending.retried:
                pending.events.put_nowait(
                    WorkerDied(f"the process of model {self._name!r} died twice under this answer: {how}")
                )
            pending.retried = True
        if not again:
            return
        try:
            await self.start()
        except ChatbridgeError as error:
            for pending in again:
                pending.events.put_nowait(error)
            return
        for pending in again:
            if pending.request.id in self._pending:
                self._submit(pending)

    def _submit(self, pending: _Pending) -> None:
        request = pending.request
        pending.submitted = True
        try:
            self._send(Generate(replace(request, resume=(*request.resume, *pending.tokens))))
        except ValueError as error:
            pending.events.put_nowait(InvalidRequest(f"the request can't be sent to the model: {error}"))
            return
        if pending.cancelled:
            self._send(Cancel(request.id))

    async def _ask(self, prompt: Prompt | None) -> Any:
        await self.start()
        self._next_call += 1
        call = self._calls[self._next_call] = asyncio.get_running_loop().create_future()
        self._send(Ask(self._next_call, prompt))
        return await call

    def _send(self, message: ToWorker) -> None:
        if self._worker is not None:
            self._worker.send(message)


class _Process:
    """One worker process and the socket to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self._output = b""
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls) -> _Process:
        if sys.platform == "win32":
            return await cls._start_on_a_port()
        ours, theirs = socket.socketpair()
        try:
            process = await _spawn(f"fd:{theirs.fileno()}", pass_fds=(theirs.fileno(),))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, *await asyncio.open_connection(sock=ours, limit=LINE_LIMIT))

    @classmethod
    async def _start_on_a_port(cls) -> _Process:
        """Windows hands no sockets to children: the worker calls back, and shows a key that only it was told."""
        key = secrets.token_hex(32)
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        connected = asyncio.get_running_loop().create_future()

        async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            said = await reader.readline()
            if secrets.compare_digest(said.strip(), key.encode()) and not connected.done():
                connected.set_result((reader, writer))
            else:
                writer.close()

        server = await asyncio.start_server(called, "127.0.0.1", 0, limit=LINE_LIMIT)
        async with server:
            process = await _spawn(f"port:{server.sockets[0].getsockname()[1]}", CHATBRIDGE_WORKER_KEY=key)
            ended = asyncio.create_task(process.wait())
            either: list[asyncio.Future[Any]] = [ended, connected]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not connected.done():
                raise ModelLoadError("the worker process ended before it had begun")
            ended.cancel()
            return cls(process, *connected.result())

    def send(self, message: ToWorker) -> None:
        """Raises ValueError for a message that can't be written as JSON."""
        line = to_worker(message)
        if not self._writer.is_closing():
            self._writer.write(line)

    async def receive(self) -> FromWorker | None:
        """What the worker says next; None when it has ended."""
        with suppress(ConnectionError):
            line = await self._reader.readline()
            if line.endswith(b"\n"):  # a line without an end was cut in two by the worker's death
                return read_from_worker(line)
        return None

    async def end(self, grace: float = 0.0) -> None:
        """See the process off: by itself within `grace` seconds, or by force."""
        try:
            await asyncio.wait_for(self.process.wait(), grace)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self.process.kill()
        await self.how_it_ended()

    async def how_it_ended(self) -> str:
        """Waits for the end, and says it in words with the last lines that the worker printed."""
        code = await self.process.wait()
        await self._listening
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        said = self._output.decode(errors="replace").strip()
        return exit_in_words(code) + (f"; its last words:\n{said}" if said else "")

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(1 << 16):
            log.debug("worker %d: %s", self.process.pid, data.decode(errors="replace").rstrip())
            self._output = (self._output + data)[-_LAST_WORDS:]


async def _spawn(address: str, pass_fds: tuple[int, ...] = (), **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "chatbridge.worker", address),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        pass_fds=pass_fds,
        env={
            **os.environ,
            # ggml's abort would otherwise start gdb for a backtrace.
            "GGML_NO_BACKTRACE": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
            **environment,
        },
    )


def exit_in_words(code: int) -> str:
    """What an exit status says about how a process ended."""
    if code == -signal.SIGTERM:
        return "it was ended by SIGTERM"
    if sys.platform != "win32" and code == -signal.SIGKILL:
        return "it was killed (SIGKILL), as the system does when memory runs out"
    if code < 0:
        with suppress(ValueError):
            return f"native code crashed ({signal.Signals(-code).name})"
    if code in (0xC0000005, 0xC0000409):
        return "native code crashed (access violation)"
    return f"it ended with status {code}"
