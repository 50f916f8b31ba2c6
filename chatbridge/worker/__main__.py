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
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

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
    Query,
    QueryResult,
    RequestEvent,
    ToWorker,
    from_worker,
    read_to_worker,
)

if TYPE_CHECKING:
    from chatbridge.engine.engine import Engine, Event

KEY_VARIABLE = "CHATBRIDGE_WORKER_KEY"


def main(address: str) -> None:
    """Serve one parent. `address`: `fd:3`, an inherited socket, or `port:12345` on the loopback (Windows)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to every process; it is the parent's
    connection = _connect(address)
    worker = _Worker(connection.makefile("rb"), connection)
    worker.run()


def _connect(address: str) -> socket.socket:
    kind, _, number = address.partition(":")
    if kind == "fd":
        return socket.socket(fileno=int(number))
    connection = socket.create_connection(("127.0.0.1", int(number)))
    connection.sendall(os.environ.pop(KEY_VARIABLE).encode() + b"\n")
    return connection


class _Worker:
    """Reads on one thread, so that nothing waits for a step to end; everything else is done on the main thread."""

    def __init__(self, lines: BinaryIO, connection: socket.socket) -> None:
        self._lines = lines
        self._connection = connection
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self._engine: Engine | None = None
        self._requests: set[str] = set()

    def run(self) -> None:
        load = read_to_worker(self._lines.readline())
        assert isinstance(load, Load)
        # Reading goes on while the model loads: a parent that ends meanwhile must not leave us behind.
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._engine = engine = self._load(load)
        except Exception as error:
            self._send(LoadFailed(Failure.of(error)))
            return
        self._send(Loaded(engine.model.info))
        while self._handle_inbox(engine):
            for event in engine.step():
                self._tell(event)
        for request in self._requests:
            engine.cancel(request)
        for event in engine.step():
            self._tell(event)
        engine.close()

    def _load(self, load: Load) -> Engine:
        sys.path[:] = load.paths
        options = _imported(load.options_module, load.options_class).model_validate(load.options)
        model = _imported(load.module, load.function)(options, lambda share, doing: self._send(Loading(share, doing)))
        # Imported last: a backend may have to set variables before NumPy is first imported.
        from chatbridge.engine.engine import Engine

        return Engine(model, max_batch=load.max_batch)

    def _handle_inbox(self, engine: Engine) -> bool:
        """Take in everything that came; wait for something where there is nothing else to do."""
        while engine.idle or not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Close):
                return False
            if isinstance(message, Generate):
                self._requests.add(message.request.id)
                engine.submit(message.request)
            elif isinstance(message, Cancel):
                engine.cancel(message.id)
            elif isinstance(message, Query):
                self._send(QueryResult(message.id, engine.stats()))
        return True

    def _tell(self, event: Event) -> None:
        if event.error is not None or (event.chunk is not None and event.chunk.finish is not None):
            self._requests.discard(event.request_id)
        failure = Failure.of(event.error) if event.error is not None else None
        self._send(RequestEvent(event.request_id, event.chunk, failure, event.tokens))

    def _read(self) -> None:
        for line in self._lines:
            message = read_to_worker(line)
            if isinstance(message, Query) and message.prompt is not None:
                self._tokenize(message)  # at once: tokenizers may be called from any thread
            else:
                self._inbox.put(message)
        os._exit(0)  # the parent is gone; the main thread may be deep in native code, so no goodbyes

    def _tokenize(self, query: Query) -> None:
        assert self._engine is not None, "a query before the model was loaded"
        assert query.prompt is not None
        try:
            self._send(QueryResult(query.id, self._engine.tokenize(query.prompt)))
        except Exception as error:
            self._send(QueryResult(query.id, failure=Failure.of(error)))

    def _send(self, message: FromWorker) -> None:
        with self._sending:
            self._connection.sendall(from_worker(message))


def _imported(module: str, name: str) -> Any:
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
