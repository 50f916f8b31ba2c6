"""A worker in this very process, whose model or tokenizer ends it at a poison; for tests in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatbridge.delivery.clock import LoopClock
from chatbridge.engine.backend import Row
from chatbridge.engine.engine import Engine
from chatbridge.testing.toy import ToyModel, ToyTokenizer
from chatbridge.worker.protocol import (
    Cancel,
    Close,
    Failure,
    FromWorker,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Pause,
    Paused,
    Ping,
    Pong,
    Query,
    QueryResult,
    RequestEvent,
    Step,
    StepEvents,
    ToWorker,
)

POISON = "#"
"""Reading it ends the process; the toy model itself never says it."""

TOKENIZER_POISON = "@"
"""Tokenising it does."""

HANG = "~"
"""The step that reads it never ends."""


class Died(BaseException):
    """The process has ended."""


class Hangs(BaseException):
    """The process does nothing any more."""


class DeadlyTokenizer(ToyTokenizer):
    def encode(self, text: str, *, start: bool) -> list[int]:
        if TOKENIZER_POISON in text:
            raise Died
        return super().encode(text, start=start)


class DeadlyModel(ToyModel):
    """Ends the process, or hangs, when it reads a poison."""

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        for row in rows:
            if ord(POISON) in row.tokens:
                raise Died
            if ord(HANG) in row.tokens:
                raise Hangs
        return super().step(rows)


@dataclass
class Machine:
    """Starts such processes. `kills`: for each process how many steps it lives; `fail_loads`: how many loads fail.

    After `starts` processes the next one takes for ever, and `asked_again` is set.
    """

    max_batch: int = 4
    kills: list[int] = field(default_factory=list)
    fail_loads: int = 0
    started: int = 0
    context_length: int = 4096
    eos_every: int = 40
    starts: int = 10**9
    asked_again: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> FakeProcess:
        if self.started >= self.starts:
            self.asked_again.set()
            await LoopClock().sleep(10**6)
        self.started += 1
        return FakeProcess(self, self.kills.pop(0) if self.kills else 10**9)


class FakeProcess:
    """Does what `chatbridge.worker` does, a step each hundredth of a second."""

    def __init__(self, machine: Machine, lives: int) -> None:
        self.pid = machine.started
        self._machine = machine
        self._lives = lives
        self._inbox: asyncio.Queue[ToWorker] = asyncio.Queue()
        self._outbox: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._reason = "it died"
        self._since: float | None = None
        self._task = asyncio.create_task(self._run())
        self._told: tuple[str, ...] = ()

    def send(self, message: ToWorker) -> None:
        if isinstance(message, Ping) and not self._task.done():
            now = asyncio.get_running_loop().time()
            self._outbox.put_nowait(Pong(0.0 if self._since is None else now - self._since, 1))
        else:
            self._inbox.put_nowait(message)

    async def receive(self) -> FromWorker | None:
        return await self._outbox.get()

    async def end(self, grace: float = 0.0) -> None:
        self.kill("")

    def kill(self, why: str) -> None:
        self._reason = why
        self._task.cancel()
        self._outbox.put_nowait(None)

    async def exit_reason(self) -> str:
        return self._reason

    async def _run(self) -> None:
        try:
            load = await self._inbox.get()
            assert isinstance(load, Load)
            if self._machine.fail_loads:
                self._machine.fail_loads -= 1
                self._outbox.put_nowait(LoadFailed(Failure("ModelLoadError", "the file is gone")))
                return
            model = DeadlyModel(
                max_batch=self._machine.max_batch,
                context_length=self._machine.context_length,
                eos_every=self._machine.eos_every,
                tokenizer=DeadlyTokenizer(),
            )
            engine = Engine(model, max_batch=load.max_batch, on_step=self._on_step, token_budget=16)
            self._outbox.put_nowait(Loaded(model.info))
            while True:
                while engine.idle or not self._inbox.empty():
                    message = await self._inbox.get()
                    if isinstance(message, Close):
                        self._outbox.put_nowait(None)
                        return
                    self._take(engine, message)
                if self._lives <= 0:
                    raise Died
                self._lives -= 1
                told = []
                for event in engine.step():
                    failure = Failure.of(event.error) if event.error is not None else None
                    told.append(RequestEvent(event.request_id, event.chunk, failure, event.tokens))
                self._outbox.put_nowait(StepEvents(tuple(told)))
                await LoopClock().sleep(0.01)
        except Died:
            self._outbox.put_nowait(None)
        except Hangs:
            self._since = asyncio.get_running_loop().time()
            await LoopClock().sleep(10**6)

    def _take(self, engine: Engine, message: ToWorker) -> None:
        if isinstance(message, Generate):
            engine.submit(message.request)
        elif isinstance(message, Cancel):
            engine.cancel(message.id)
        elif isinstance(message, Pause):
            engine.pause(message.id)
            self._outbox.put_nowait(Paused(message.id))
        elif isinstance(message, Query):
            value = engine.stats() if message.prompt is None else engine.tokenize(message.prompt)
            self._outbox.put_nowait(QueryResult(message.id, len(value) if message.count else value))

    def _on_step(self, ids: tuple[str, ...], tokens: int) -> None:
        if ids != self._told:
            self._told = ids
            self._outbox.put_nowait(Step(ids))
