"""Runs a model in a worker process of its own, and is a `Backend` to everybody else.

Knows requests and what becomes of them. How processes are started and watched is `process`, what is tried again after
one died, and in which order, is `recovery`, and when it is, `backoff`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from chatbridge.config.bounds import HANG_TIMEOUT, KEPT_STATES
from chatbridge.engine.backend import BackendType, Request
from chatbridge.errors import (
    BackendError,
    ChatbridgeError,
    InvalidRequest,
    ModelUnavailable,
    WorkerDied,
)
from chatbridge.prompts.segments import Prompt
from chatbridge.types import Chunk, ModelInfo
from chatbridge.worker.backoff import Backoff
from chatbridge.worker.jobs import Answer, Question
from chatbridge.worker.loading import DiedLoading, load_message, load_model
from chatbridge.worker.process import Process, WorkerProcess
from chatbridge.worker.protocol import (
    Cancel,
    Close,
    Failure,
    FromWorker,
    Pause,
    Paused,
    Ping,
    Pong,
    QueryResult,
    RequestEvent,
    StatesStored,
    Step,
    StepEvents,
    StoreStates,
    ToWorker,
)
from chatbridge.worker.recovery import Job, Recovery
from chatbridge.worker.watchdog import LOAD_SHARES, Watchdog

log = logging.getLogger(__name__)

_GRACE = 5.0
"""Seconds that a worker has to end by itself."""

_PATIENCE = 10.0
"""Seconds that a new request waits for a worker that is to be started again; where it takes longer it is refused."""

_LOADS = 4
"""How often in a row a model whose process died while it loaded is loaded for those who wait."""

_StartProcess = Callable[[], Coroutine[Any, Any, Process]]


class WorkerBackend:
    """A `Backend` whose `LocalModel` lives in a process; `start` it first.

    `on_progress(share, doing)` is called while the model loads. `hang_timeout`: see `Watchdog`. `memory_limit`: bytes
    that the process may have; `kept_states`: bytes for states of conversations that are not being answered.
    `states_folder`: where these go on disk, for a model that keeps none by itself. `hidden`: names of variables that
    it is not to have. `start_process`: what starts it.
    """

    def __init__(
        self,
        kind: BackendType,
        options: BaseModel,
        *,
        name: str = "",
        max_batch: int | None = None,
        on_progress: Callable[[float, str], None] | None = None,
        hang_timeout: float = HANG_TIMEOUT,
        memory_limit: int | None = None,
        kept_states: int = KEPT_STATES,
        states_folder: Path | None = None,
        hidden: frozenset[str] = frozenset(),
        backoff: Backoff | None = None,
        start_process: _StartProcess | None = None,
    ) -> None:
        self._load = partial(load_message, kind, options, max_batch, memory_limit, kept_states, states_folder)
        self._name = name or kind.name
        self._on_progress = on_progress
        self._hang_timeout = hang_timeout
        self._backoff = backoff or Backoff()
        self._start_process: Callable[[], Coroutine[Any, Any, Process]] = start_process or partial(
            WorkerProcess.start, hidden=hidden, variables=kind.variables
        )
        self._info: ModelInfo | None = None
        self._worker: Process | None = None
        self._watchdog = Watchdog(hang_timeout)
        self._starting = asyncio.Lock()
        self._closed = False
        self._jobs = Recovery()
        self._answers: dict[str, Answer] = {}
        self._questions: dict[int, Question] = {}
        self._storing: dict[int, asyncio.Future[StatesStored]] = {}
        self._running: tuple[str, ...] = ()
        self._has_work = asyncio.Event()
        self._next_question = 0
        self._watching: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def info(self) -> ModelInfo:
        assert self._info is not None, "start() the backend first"
        return self._info

    @property
    def pid(self) -> int | None:
        """The worker's process id, while it lives."""
        return self._worker.pid if self._worker is not None else None

    @property
    def state(self) -> str:
        """What the worker does, in words: "running" where all is well."""
        if self._worker is not None:
            return "not answering" if self._watchdog.quiet else "running"
        if self._reviving is None:
            return "running"  # it is started when somebody asks
        seconds = self._backoff.remaining()
        return f"crashed; started again in {seconds:.0f} s" if seconds else "crashed; being started again"

    async def start(self) -> None:
        """Start the worker and load the model, unless it is there. Raises ModelLoadError."""
        async with self._starting:
            if self._closed:
                raise BackendError(f"the model {self._name!r} was closed")
            if self._worker is not None:
                return
            worker = await self._start_process()
            try:
                limit = LOAD_SHARES * self._hang_timeout
                self._info = await load_model(worker, self._load(), self._name, self._on_progress, limit)
            except BaseException:
                await worker.end()
                raise
            self._worker = worker
            self._running = ()
            self._watchdog.heard()
            self._watching = asyncio.create_task(self._watch(worker))

    async def generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """See `Backend.generate`.

        Raises: WorkerDied if the worker dies of the request; ModelUnavailable if it is down and will be for a while.
        """
        if request.id in self._answers:
            raise InvalidRequest(f"a request {request.id!r} is on its way already")
        self._check_open()
        answer = self._answers[request.id] = Answer(request=request)
        finished = False
        self._jobs.add(answer)
        try:
            self._go_on()
            while not finished:
                event = await answer.events.get()
                finished = isinstance(event, ChatbridgeError) or event.finish is not None
                if isinstance(event, ChatbridgeError):
                    raise event
                yield event
        finally:
            del self._answers[request.id]
            self._jobs.remove(answer)
            if not finished:
                self._send(Cancel(request.id))
            self._go_on()

    def cancel(self, request_id: str) -> None:
        """See `Backend.cancel`."""
        if (answer := self._answers.get(request_id)) is not None:
            answer.cancelled = True
            if answer.sent and not answer.pausing:
                self._send(Cancel(request_id))
            else:
                answer.events.put_nowait(answer.cancelled_finish())

    async def tokenize(self, prompt: Prompt) -> list[int]:
        """The ids of `prompt`. Raises TemplateError, and what `generate` does."""
        return list(await self._ask(prompt, count=False))

    async def count_tokens(self, prompt: Prompt) -> int:
        """See `Backend.count_tokens`."""
        return int(await self._ask(prompt))

    async def stats(self) -> dict[str, Any]:
        """The engine's counts; see `Engine.stats`."""
        return dict(await self._ask(None, count=False))

    async def store_states(self, folder: Path) -> tuple[int, int]:
        """Have what was read of conversations put on disk; how many states are there now, and how many are not.

        `folder`: for a model that has no place for it yet. None is there, and none missing, where no process runs.
        Raises: ChatbridgeError where the process dies meanwhile, or can't write there.
        """
        if self._worker is None:
            return 0, 0
        self._next_question += 1
        number = self._next_question
        stored = self._storing[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(StoreStates(number, str(folder)))
            result = await stored
        finally:
            del self._storing[number]
        if result.failure is not None:
            raise result.failure.error()
        return result.there, result.missing

    async def aclose(self) -> None:
        """See `Backend.aclose`. The process is gone afterwards."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._reviving is not None:
            self._reviving.cancel()
            await asyncio.gather(self._reviving, return_exceptions=True)
        async with self._starting:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.send(Close())
            await worker.end(grace=_GRACE)
        if self._watching is not None:
            await self._watching
        for answer in self._answers.values():
            answer.events.put_nowait(answer.cancelled_finish())
        self._fail(BackendError(f"the model {self._name!r} was closed"), self._questions.values())

    # --- what is sent, and when --------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"the model {self._name!r} was closed")
        wait = self._backoff.remaining()
        if self._worker is None and wait > _PATIENCE:
            raise ModelUnavailable(f"the model {self._name!r} keeps failing: {self._backoff.reason}", seconds=wait)

    def _go_on(self) -> None:
        """Tell the worker what is to be done now; see to it that there is one."""
        if self._closed or not len(self._jobs):
            return
        self._has_work.set()
        if self._worker is None:
            if self._reviving is None:
                self._reviving = asyncio.create_task(self._revive())
            return
        loop = asyncio.get_running_loop()
        actions = self._jobs.actions(loop.time())
        for job in actions.pause:
            if isinstance(job, Answer):
                self._send(Pause(job.request.id))
        for job in actions.send:
            self._submit(job)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if actions.later is not None:
            self._timer = loop.call_later(actions.later, self._go_on)

    def _submit(self, job: Job) -> None:
        assert isinstance(job, Answer | Question)
        if isinstance(job, Answer) and job.cancelled:
            return  # its end is on its way
        try:
            self._send(job.message())
        except ValueError as error:
            what = "request" if isinstance(job, Answer) else "text"
            job.fail(InvalidRequest(f"the {what} can't be sent to the model: {error}"))

    async def _ask(self, prompt: Prompt | None, *, count: bool = True) -> Any:
        self._check_open()
        self._next_question += 1
        result = asyncio.get_running_loop().create_future()
        question = Question(number=self._next_question, prompt=prompt, count=count, result=result)
        # The engine's counts harm nobody.
        question.waiting = prompt is None
        self._questions[question.number] = question
        self._jobs.add(question)
        try:
            self._go_on()
            return await result
        finally:
            del self._questions[question.number]
            self._jobs.remove(question)
            self._go_on()

    def _send(self, message: ToWorker) -> None:
        if self._worker is not None:
            self._worker.send(message)

    def _fail(self, error: ChatbridgeError, jobs: Iterable[Job]) -> None:
        for job in list(jobs):
            assert isinstance(job, Answer | Question)
            job.fail(error)

    # --- the worker's life -------------------------------------------------------------------------------------

    async def _watch(self, worker: Process) -> None:
        """Hand out what the worker says, until it ends; then see to what it leaves behind."""
        dog = asyncio.create_task(self._watch_for_hangs(worker))
        while (message := await worker.receive()) is not None:
            self._watchdog.heard()
            self._take(message, worker)
        dog.cancel()
        for number, stored in self._storing.items():
            if not stored.done():
                stored.set_result(StatesStored(number, failure=Failure("WorkerDied", "its process has ended")))
        reason = await worker.exit_reason()
        if self._worker is not worker:
            return
        self._worker = None
        log.error("the worker of model %s died: %s", self._name, reason)
        self._backoff.failed(reason)
        running = [self._answers[id] for id in self._running if id in self._answers]
        failed = self._jobs.died(running, asyncio.get_running_loop().time())
        self._end_stopped()
        self._fail(WorkerDied(f"the process of model {self._name!r} died twice under this answer: {reason}"), failed)
        for job in failed:
            self._jobs.remove(job)
        self._report()
        self._go_on()

    def _end_stopped(self) -> None:
        """End what was stopped and no worker has any more: the one that was told to is gone, or has given it up."""
        for answer in self._answers.values():
            if answer.cancelled and not answer.sent:
                answer.events.put_nowait(answer.cancelled_finish())

    def _report(self) -> None:
        """Say in the log how those go on whom a death has met, and what may help."""
        if self._jobs.suspects > 1:
            log.warning("model %s: %d requests are tried again one by one", self._name, self._jobs.suspects)
        if (wait := self._backoff.remaining()) > 0:
            log.error(
                "model %s failed %d times in a row and is started again in %.0f s; if it goes on: give it less to do "
                "(max_batch, context_length), more memory, or another file, and see what it printed last, above",
                self._name,
                self._backoff.failures,
                wait,
            )

    def _take(self, message: FromWorker, worker: Process) -> None:
        if isinstance(message, StepEvents):
            for event in message.events:
                self._hand_out(event)
            if self._jobs.suspects:
                self._go_on()
        elif isinstance(message, Step):
            self._running = message.ids
            for id in message.ids:
                if (answer := self._answers.get(id)) is not None:
                    answer.waiting = False
        elif isinstance(message, Paused):
            if (answer := self._answers.get(message.id)) is not None:
                self._jobs.paused(answer)
            self._end_stopped()
            self._go_on()
        elif isinstance(message, Pong):
            if why := self._watchdog.pong(message):
                self._kill(worker, why)
        elif isinstance(message, StatesStored) and (stored := self._storing.get(message.id)) is not None:
            if not stored.done():
                stored.set_result(message)
        elif isinstance(message, QueryResult) and (question := self._questions.get(message.id)) is not None:
            if message.failure is not None:
                question.fail(message.failure.error())
            else:
                question.answer(message.value)

    def _hand_out(self, message: RequestEvent) -> None:
        answer = self._answers.get(message.id)
        if answer is None:  # whoever asked is gone
            return
        answer.tokens += message.tokens
        if message.failure is not None:
            answer.events.put_nowait(message.failure.error())
        elif message.chunk is not None:
            self._watchdog.stepped()
            if not message.chunk.thinking:
                answer.text.append(message.chunk.text)
            answer.waiting = message.chunk.waiting is not None
            if message.chunk.finish is not None:
                self._backoff.succeeded()
            answer.events.put_nowait(message.chunk)

    async def _watch_for_hangs(self, worker: Process) -> None:
        while True:
            if not self._jobs.sent:
                self._watchdog.heard()
                self._has_work.clear()
                await self._has_work.wait()
            await asyncio.sleep(self._watchdog.interval)
            if not self._jobs.sent:
                continue
            worker.send(Ping())
            if why := self._watchdog.tick():
                self._kill(worker, why)

    def _kill(self, worker: Process, why: str) -> None:
        log.error("the worker of model %s hangs: %s; it is ended", self._name, why)
        worker.kill(f"it hung ({why}) and was ended")

    async def _revive(self) -> None:
        """Start a worker again for those who wait, when it is time; tell them if that is no use."""
        try:
            for left in reversed(range(_LOADS)):
                await asyncio.sleep(self._backoff.remaining())
                try:
                    await self.start()
                    break
                except ChatbridgeError as error:
                    self._backoff.failed(str(error))
                    log.error("the model %s could not be started again: %s", self._name, error)
                    if not left or not isinstance(error, DiedLoading):
                        self._fail(error, self._jobs)
                        break
        finally:
            self._reviving = None
        if self._worker is not None:
            self._go_on()
