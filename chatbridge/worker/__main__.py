"""The worker process, `python -m chatbridge.worker`: one model and its engine, apart from everything else.

A crash of native code ends this process alone. It talks over a socket that it inherits; stdout and stderr are free
for whatever the libraries print. It ends itself when the other side is gone. Knows no chat and no configuration.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from chatbridge.engine.backend import LocalModel, Request
from chatbridge.errors import ChatbridgeError, ModelLoadError
from chatbridge.prompts.cache import ByteLru, weight
from chatbridge.prompts.segments import Prompt, Special
from chatbridge.worker.memory_limit import at_limit, limit_memory
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
    StatesStored,
    Step,
    StepEvents,
    StoreStates,
    ToWorker,
    from_worker,
    read_to_worker,
)
from chatbridge.worker.tokenizing import TokenizerThreads
from chatbridge.worker.untold import Untold

if TYPE_CHECKING:
    from chatbridge.engine.disk_cache import DiskCache
    from chatbridge.engine.engine import Engine, Event

KEY_VARIABLE = "CHATBRIDGE_WORKER_KEY"

TOKENIZED_BYTES, LARGEST_TOKENIZED = 16 << 20, 1 / 4
"""Memory for the ids of prompts that were tokenised last, and how much of it one of them may take."""

_ID_BYTES = 36
"""What an id takes: a number, and its place in a tuple."""

_SWITCH_SECONDS = 0.0002


def main(address: str) -> None:
    """Serve one parent. `address`: `fd:3`, an inherited socket, or `port:12345` on the loopback (Windows)."""
    # Tokenizers in Python share the interpreter with the main thread, which lets it go at each native call and would
    # wait for 5 ms to have it back.
    sys.setswitchinterval(_SWITCH_SECONDS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to every process; it is the parent's
    threading.excepthook = lambda failed: _end(failed.exc_value)  # without one of its threads it would be deaf
    connection = _connect(address)
    worker = _Worker(connection.makefile("rb"), connection)
    try:
        worker.run()
    except BaseException as error:
        _end(error)


def _end(error: BaseException | None) -> None:
    """Say why, and end at once: where memory is out, an orderly end may need more than there is, and never come."""
    with suppress(BaseException):
        traceback.print_exception(error)
    os._exit(1)


def _connect(address: str) -> socket.socket:
    kind, _, number = address.partition(":")
    if kind == "fd":
        return socket.socket(fileno=int(number))
    connection = socket.create_connection(("127.0.0.1", int(number)))
    connection.sendall(os.environ.pop(KEY_VARIABLE).encode() + b"\n")
    return connection


@dataclass(frozen=True, slots=True)
class _Tokenized:
    """A request, and the ids of its prompt or why there are none."""

    request: Request
    prompt: Sequence[int] | ChatbridgeError


class _Worker:
    """Reads on one thread, tokenises on others, so that nothing waits for a step to end; the main thread does the rest.

    A message that is about a request goes the way of its `Generate`: what comes before its prompt is tokenised is kept
    in `_early`, and heeded then.
    """

    def __init__(self, lines: BinaryIO, connection: socket.socket) -> None:
        self._lines = lines
        self._connection = connection
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[ToWorker | _Tokenized] = queue.SimpleQueue()
        self._threads = TokenizerThreads()
        self._tokenized: ByteLru[Prompt, tuple[int, ...]] = ByteLru(TOKENIZED_BYTES, _size, largest=LARGEST_TOKENIZED)
        self._engine: Engine | None = None
        self._disk_cache: DiskCache | None = None
        self._requests: set[str] = set()
        # Requests that were read, by the thread that reads, and those of them that the main thread knows of.
        self._read_requests = self._known_requests = 0
        self._early: dict[str, Cancel | Pause | None] = {}
        self._told_step: tuple[str, ...] = ()
        self._untold = Untold()
        # When the step under way began, what it reads, and whether none has ended before: written by the main thread.
        self._step: tuple[float, int] | None = None
        self._first = True

    def run(self) -> None:
        load = read_to_worker(self._lines.readline())
        assert isinstance(load, Load)
        # Reading goes on while the model loads: a parent that ends meanwhile must not leave us behind.
        threading.Thread(target=self._read, daemon=True).start()
        try:
            limit_memory(load.memory_limit)
            self._engine = engine = self._load(load)
        except Exception as error:
            # What runs out of memory in the middle of an import, say, may fail of something else.
            if isinstance(error, MemoryError) or at_limit(load.memory_limit):
                error = ModelLoadError(_out_of_memory(load.memory_limit, error))
            self._send(LoadFailed(Failure.of(error)))
            return
        self._send(Loaded(engine.model.info))
        while self._handle_inbox(engine):
            self._step = (time.monotonic(), 0)
            events = engine.step()
            # Before the events are told: whoever has an answer's end must not hear that its step goes on.
            self._step, self._first = None, False
            self._tell(events)
            if engine.idle:
                self._tell_all()
        for request in self._requests:
            engine.cancel(request)
        self._tell(engine.step())
        self._tell_all()
        engine.close()

    def _load(self, load: Load) -> Engine:
        sys.path[:] = load.paths
        options = _imported(load.options_module, load.options_class).model_validate(load.options)
        model = _imported(load.module, load.function)(options, lambda share, doing: self._send(Loading(share, doing)))
        # Imported last: a backend may have to set variables before NumPy is first imported.
        from chatbridge.engine.engine import Engine

        if load.states_folder is not None:
            self._disk_cache = _disk_cache(model, load.states_folder)
        return Engine(
            model,
            max_batch=load.max_batch,
            cache_bytes=load.kept_states,
            disk_cache=self._disk_cache,
            on_step=self._on_step,
        )

    def _on_step(self, ids: tuple[str, ...], tokens: int) -> None:
        """Tell what is begun: were this process to die of it, one of these would be why."""
        self._step = (time.monotonic(), tokens)
        if ids != self._told_step:
            self._told_step = ids
            self._tell_all()  # these have come past what may kill the others
            self._send(Step(ids))

    def _handle_inbox(self, engine: Engine) -> bool:
        """Take in everything that came; wait for something where there is nothing else to do."""
        while engine.idle or not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Close):
                return False
            if isinstance(message, Generate):
                self._known_requests += 1
                self._early[message.request.id] = None
                length = sum(len(part.text) for part in message.request.prompt if not isinstance(part, Special))
                self._threads.put(length, partial(self._tokenize_request, engine, message.request))
            elif isinstance(message, _Tokenized):
                self._submit(engine, message)
            elif isinstance(message, Cancel | Pause) and message.id in self._early:
                self._early[message.id] = message
            elif isinstance(message, Cancel):
                engine.cancel(message.id)
            elif isinstance(message, Pause):
                engine.pause(message.id)
                self._requests.discard(message.id)
                self._tell_all()  # it goes on behind these
                self._send(Paused(message.id))
            elif isinstance(message, Query):
                self._send(QueryResult(message.id, engine.stats()))
            elif isinstance(message, StoreStates):
                self._send(self._store_states(engine, message))
        return True

    def _store_states(self, engine: Engine, message: StoreStates) -> StatesStored:
        try:
            self._disk_cache = self._disk_cache or _disk_cache(engine.model, message.folder)
            # Who asks now is answered now: nothing is unloaded then.
            there, missing = engine.store_states(
                self._disk_cache, interrupted=lambda: self._read_requests > self._known_requests
            )
        except Exception as error:  # without them histories are read again, which is no reason to die
            return StatesStored(message.id, failure=Failure.of(error))
        return StatesStored(message.id, there, missing)

    def _submit(self, engine: Engine, tokenized: _Tokenized) -> None:
        early = self._early.pop(tokenized.request.id)
        if isinstance(early, Pause):
            self._send(Paused(early.id))
            return
        self._requests.add(tokenized.request.id)
        engine.submit(tokenized.request, tokenized.prompt)
        if isinstance(early, Cancel):
            engine.cancel(early.id)

    def _tell(self, events: Sequence[Event]) -> None:
        told = []
        for event in events:
            if event.error is not None or (event.chunk is not None and event.chunk.finish is not None):
                self._requests.discard(event.request_id)
            failure = Failure.of(event.error) if event.error is not None else None
            told.append(RequestEvent(event.request_id, event.chunk, failure, event.tokens))
        self._untold.add(told)
        if self._untold.due():
            self._tell_all()

    def _tell_all(self) -> None:
        if events := self._untold.take():
            self._send(StepEvents(events))

    def _read(self) -> None:
        for line in self._lines:
            message = read_to_worker(line)
            if isinstance(message, Ping):
                self._send(self._pong())
            elif isinstance(message, Query) and message.prompt is not None:
                length = sum(len(part.text) for part in message.prompt if not isinstance(part, Special))
                self._threads.put(length, partial(self._tokenize, message))
            else:
                self._read_requests += isinstance(message, Generate)
                self._inbox.put(message)
        os._exit(0)  # the parent is gone; the main thread may be deep in native code, so no goodbyes

    def _pong(self) -> Pong:
        began, tokens = self._step or (None, 0)
        seconds = 0.0 if began is None else time.monotonic() - began
        return Pong(seconds, tokens, self._first, self._threads.seconds())

    def _tokenize(self, query: Query) -> None:
        assert self._engine is not None, "a query before the model was loaded"
        assert query.prompt is not None
        try:
            ids = self._ids(self._engine, query.prompt)
            self._send(QueryResult(query.id, len(ids) if query.count else list(ids)))
        except MemoryError:
            raise
        except Exception as error:
            self._send(QueryResult(query.id, failure=Failure.of(error)))

    def _tokenize_request(self, engine: Engine, request: Request) -> None:
        try:
            found: Sequence[int] | ChatbridgeError = self._ids(engine, request.prompt)
        except MemoryError:
            raise
        except Exception as error:
            found = Failure.of(error).error()
        self._inbox.put(_Tokenized(request, found))

    def _ids(self, engine: Engine, prompt: Prompt) -> Sequence[int]:
        """The ids of a prompt, which is tokenised once: what is counted is, as a rule, what is asked next."""
        return self._tokenized.get(prompt, lambda: tuple(engine.tokenize(prompt)))

    def _send(self, message: FromWorker) -> None:
        with self._sending:
            self._connection.sendall(from_worker(message))


def _size(prompt: Prompt, ids: tuple[int, ...]) -> int:
    return weight(["", *(part.text for part in prompt if not isinstance(part, Special))]) + _ID_BYTES * len(ids)


def _disk_cache(model: LocalModel, folder: str) -> DiskCache | None:
    """For a model that has none of its own. Raises ModelLoadError where the folder can't be used."""
    if getattr(model, "disk_cache", None) is not None:
        return None
    from chatbridge.engine.disk_cache import DiskCache

    try:
        return DiskCache(Path(folder), model.info.fingerprint)
    except OSError as error:
        why = error.strerror or error
        raise ModelLoadError(
            f"idle_minutes: the folder {folder} can't be used: {why}; make room for it, or leave idle_minutes out"
        ) from error


def _out_of_memory(limit: int | None, error: Exception) -> str:
    if limit is None:
        return f"there is not enough memory for the model ({error}); free some, or take a smaller model"
    return (
        f"the model needs more than its memory_limit of {limit / 2**30:.1f} GiB ({error}); raise it, or ask less of it"
    )


def _imported(module: str, name: str) -> Any:
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
