"""The worker's own side, in this process: what comes early is heeded later, and what it says of itself."""

from __future__ import annotations

import io
import socket
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
from chatbridge.worker.__main__ import _out_of_memory, _Worker
from chatbridge.worker.protocol import (
    Cancel,
    Close,
    Failure,
    FromWorker,
    Generate,
    Pause,
    Paused,
    Pong,
    Query,
    QueryResult,
    RequestEvent,
    Step,
    StepEvents,
    read_from_worker,
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
