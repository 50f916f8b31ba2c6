"""The worker's own side, in this process: what comes early is heeded later, and what it says of itself."""

from __future__ import annotations

import io
import queue
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest

from chatbridge.engine.backend import Request
from chatbridge.engine.engine import Engine
from chatbridge.errors import InvalidRequest, ModelLoadError
from chatbridge.prompts.segments import Special, Text
from chatbridge.sampling import Sampling
from chatbridge.testing.toy import ToyModel
from chatbridge.types import Finish
from chatbridge.worker import __main__ as worker_main
from chatbridge.worker.__main__ import _out_of_memory, _Worker
from chatbridge.worker.protocol import (
    Cancel,
    Close,
    Failure,
    FromWorker,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Loading,
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
    read_from_worker,
    to_worker,
)


class Parent:
    """A worker without its process, and what it says."""

    def __init__(self, lines: BinaryIO, connection: socket.socket) -> None:
        self.worker = _Worker(io.BytesIO(), connection)
        self.engine = Engine(ToyModel(eos_every=10**9), on_step=self.worker._on_step)
        self._lines = lines

    def told(self) -> FromWorker:
        return read_from_worker(self._lines.readline())

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.worker._inbox.put(message)

    def handle(self) -> bool:
        return self.worker._handle_inbox(self.engine)

    def step(self) -> None:
        self.worker._tell(self.engine.step())


@pytest.fixture
def parent() -> Iterator[Parent]:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with ours, theirs, ours.makefile("rb") as lines:
        yield Parent(lines, theirs)


def ask(id: str, text: str = "hi", tokens: int = 2) -> Request:
    return Request((Special("bos"), Text(text)), id=id, sampling=Sampling(temperature=0, max_tokens=tokens))


def tokenised(parent: Parent, *messages: Any) -> None:
    """Say these to the worker, and let it take them in with all that is tokenised of them."""
    parent.say(*messages)
    assert parent.handle()


def test_what_was_paused_before_it_was_tokenised_is_never_begun(parent: Parent) -> None:
    parent.say(Generate(ask("a")), Pause("a"))
    handling = threading.Thread(target=parent.handle)
    handling.start()
    assert parent.told() == Paused("a")
    parent.say(Close())
    handling.join()
    assert parent.engine.idle
    assert (parent.worker._requests, parent.worker._early) == (set(), {})


def test_what_was_stopped_before_it_was_tokenised_ends_at_once(parent: Parent) -> None:
    tokenised(parent, Generate(ask("a")), Cancel("a"))
    parent.step()
    events = parent.told()
    assert isinstance(events, StepEvents)
    (event,) = events.events
    assert event.chunk is not None
    assert event.chunk.finish is not None
    assert event.chunk.finish.reason == "cancelled"
    assert parent.worker._requests == set()


def test_a_request_is_told_of_begun_stepped_and_ended(parent: Parent) -> None:
    tokenised(parent, Generate(ask("a")))
    assert parent.worker._requests == {"a"}
    parent.step()
    assert parent.told() == Step(("a",))
    assert isinstance(parent.told(), StepEvents)
    parent.say(Query(7), Cancel("nobody"), Pause("a"), Pause("b"))
    closing = threading.Thread(target=parent.handle)
    closing.start()
    counts = parent.told()
    assert isinstance(counts, QueryResult)
    assert (counts.id, counts.value["running"]) == (7, 1)
    assert [parent.told(), parent.told()] == [Paused("a"), Paused("b")]
    parent.say(Close())
    closing.join()
    assert parent.worker._requests == set()
    assert parent.engine.idle


def test_nothing_is_sent_of_a_step_that_told_nothing(parent: Parent) -> None:
    parent.worker._tell([])
    parent.worker._send(Paused("x"))
    assert parent.told() == Paused("x")


def test_whoever_is_worked_for_is_told_when_that_changes(parent: Parent) -> None:
    for ids in (("a",), ("a",), ("a", "b"), ("a",)):
        parent.worker._on_step(ids, 5)
    assert [parent.told() for _ in range(3)] == [Step(("a",)), Step(("a", "b")), Step(("a",))]


def test_a_sign_of_life_tells_of_the_step_under_way(parent: Parent) -> None:
    assert parent.worker._pong() == Pong(0.0, 0, True, 0.0)
    parent.worker._on_step(("a",), 5)
    pong = parent.worker._pong()
    assert (pong.tokens, pong.first) == (5, True)
    assert 0 <= pong.step_seconds < 60


@pytest.mark.parametrize(("count", "value"), [(True, 3), (False, [256, 104, 105])])
def test_a_text_is_tokenised_once_and_counted_or_told(parent: Parent, count: bool, value: object) -> None:
    parent.worker._engine = parent.engine
    for number in (1, 2):
        parent.worker._tokenize(Query(number, (Special("bos"), Text("hi")), count))
        assert parent.told() == QueryResult(number, value)
    assert len(parent.worker._tokenized) == 1
    parent.worker._tokenize(Query(3, (Special("nothing"),), count))
    failed = parent.told()
    assert isinstance(failed, QueryResult)
    assert failed.failure is not None
    assert failed.failure.name == "TemplateError"


def test_a_failure_is_the_same_error_on_the_other_side() -> None:
    for error in (InvalidRequest("no"), ModelLoadError("never")):
        again = Failure.of(error).error()
        assert (type(again), str(again)) == (type(error), str(error))
    assert Failure.of(ZeroDivisionError("by zero")) == Failure("BackendError", "ZeroDivisionError: by zero")
    for name in ("NoSuch", "Exception", "annotations"):
        assert type(Failure(name, "x").error()).__name__ == "BackendError"
    assert RequestEvent("a").failure is None


def test_where_memory_is_out_the_limit_is_named_if_there_is_one() -> None:
    assert "memory_limit of 1.5 GiB (gone)" in _out_of_memory(3 << 29, MemoryError("gone"))
    assert "there is not enough memory for the model (gone)" in _out_of_memory(None, MemoryError("gone"))


class Lines:
    """What the parent says; it never ends, since a worker whose parent is gone ends its process."""

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def readline(self) -> bytes:
        return self.said.get()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield self.said.get()


class Running:
    """A worker that runs on a thread of this process."""

    def __init__(self, lines: BinaryIO, connection: socket.socket) -> None:
        self._said, self._lines = Lines(), lines
        self.worker = _Worker(self._said, connection)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self.worker.run)
        self._thread.start()

    def say(self, message: ToWorker) -> None:
        self._said.said.put(to_worker(message))

    def told(self) -> FromWorker:
        return read_from_worker(self._lines.readline())

    def load(self, **options: object) -> None:
        kept, paths = dict(options), [*sys.path]
        self.say(
            Load(
                "chatbridge.testing.toy", "load_toy", "chatbridge.testing.toy", "ToyOptions", kept, 2, paths, 1 << 50, 7
            )
        )

    def end_of(self, id: str) -> Finish:
        """The end of a request, past all that is told before it."""
        while True:
            message = self.told()
            for event in message.events if isinstance(message, StepEvents) else ():
                if event.id == id and event.chunk is not None and event.chunk.finish is not None:
                    return event.chunk.finish

    def ended(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    limits: list[int | None] = []
    monkeypatch.setattr(worker_main, "limit_memory", limits.append)
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with ours, theirs, ours.makefile("rb") as lines:
        yield Running(lines, theirs)
    assert limits == [1 << 50]


def test_a_worker_loads_answers_and_ends(running: Running) -> None:
    running.load(eos_every=10**9)
    assert running.told() == Loading(0.5, "inventing letters")
    loaded = running.told()
    assert isinstance(loaded, Loaded)
    assert loaded.info.name == "toy"
    running.say(Ping())
    assert running.told() == Pong(0.0, 0, True, 0.0)
    running.say(Generate(ask("a", tokens=3)))
    assert running.end_of("a").reason == "length"
    running.say(Ping())
    assert running.told() == Pong(0.0, 0, False, 0.0)
    running.say(Query(1, (Text("hi"),), True))
    assert running.told() == QueryResult(1, 2)
    running.say(Generate(ask("b", tokens=4000)))
    assert running.told() == Step(("b",))
    running.say(Close())
    assert running.end_of("b").reason == "cancelled"
    running.ended()
    engine = running.worker._engine
    assert engine is not None
    assert (engine.idle, engine.stats()["kept_states"]) == (True, 0)
    assert engine._states.cache.max_bytes == 7
    assert engine._scheduler.max_batch == 2


def test_a_worker_whose_model_can_not_be_loaded_says_why_and_ends(running: Running) -> None:
    running.load(fail_load="the file is gone")
    assert isinstance(running.told(), Loading)
    assert running.told() == LoadFailed(Failure("ModelLoadError", "the file is gone"))
    running.ended()
