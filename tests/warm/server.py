"""A Python that has chatbridge imported, and forks for each program that is started by its client.

Starting the program costs a second of a processor's time, nearly all of it for imports. Tests that are about what the
program does, and start it hundreds of times, start the file `python` of this server's folder instead: `client.py`. That
hands arguments, environment, folder and open files over to the server, which forks. The fork goes on as
`python -m MODULE ARGUMENTS` would, with those streams, signals at their defaults, and an end of its own.

Tests of starting and of being killed start a real Python, as does one of each other kind. Knows of Python's options
those that tests use: -W, -P and -m.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import io
import marshal
import os
import runpy
import selectors
import signal
import socket
import sys
import termios
import warnings
from contextlib import suppress
from pathlib import Path

from chatbridge import Plugins, default_settings

PRELOADED = (
    "chatbridge.bots.commands",
    "chatbridge.bridge",
    "chatbridge.cli.check",
    "chatbridge.cli.doctor",
    "chatbridge.cli.forget",
    "chatbridge.cli.plugins",
    "chatbridge.cli.queue",
    "chatbridge.cli.repl",
    "chatbridge.cli.run",
    "chatbridge.cli.schema",
    "chatbridge.cli.templates",
    "chatbridge.config.reader",
    "chatbridge.config.schema",
    "chatbridge.operations.logs",
    "chatbridge.prompts.jinja",
    "chatbridge.worker.__main__",
)
"""No library of an engine, and not NumPy: tests hide them, or set variables that they go by when they are loaded.

Those who need them name them to `warm_python`.
"""

Request = tuple[list[str], str, dict[str, str], list[int], bool]
"""Arguments, folder, environment, numbers of open files, and whether stdin is the terminal that the program leads."""


def serve(folder: Path) -> Request | None:
    """Fork for each client until nobody holds the other end of stdin; returns in each fork, with what it is to do."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the tests is the clients' to pass on
    programs: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    for source in (0, listener, woken):
        selector.register(source, selectors.EVENT_READ)
    os.write(1, b"ready\n")
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                for pid in programs:
                    os.kill(pid, signal.SIGKILL)
                return None
            if key.fileobj is listener:
                connection, _ = listener.accept()
                request, given = _received(connection)
                if (pid := os.fork()) == 0:
                    for ours in (selector, listener, woken, wake, connection, *programs.values()):
                        ours.close()  # by their own hands, or they would close what has their numbers then
                    _become(request, given)
                    return request
                for descriptor in given:
                    os.close(descriptor)
                programs[pid] = connection
                selector.register(connection, selectors.EVENT_READ, pid)
            elif key.fileobj is woken:
                woken.recv(4096)
                for pid, status in _ended(programs):
                    connection = programs.pop(pid)
                    with suppress(KeyError):
                        selector.unregister(connection)
                    with suppress(OSError), connection:
                        connection.sendall(status.to_bytes(4, "big"))
            elif key.data in programs:
                numbers = programs[key.data].recv(64)
                for number in numbers or [signal.SIGKILL]:  # a client that was killed takes its program along
                    os.kill(key.data, number)
                if not numbers:
                    selector.unregister(key.fileobj)


def _received(connection: socket.socket) -> tuple[Request, list[int]]:
    head, given, _, _ = socket.recv_fds(connection, 4, 64)
    length, data = int.from_bytes(head, "big"), b""
    while len(data) < length:
        data += connection.recv(length - len(data))
    request: Request = marshal.loads(data)  # noqa: S302 (our own client's)
    return request, given


def _ended(programs: dict[int, socket.socket]) -> list[tuple[int, int]]:
    found = (os.waitpid(pid, os.WNOHANG) for pid in programs)
    return [(pid, status) for pid, status in found if pid]


def _become(request: Request, given: list[int]) -> None:
    """Have the client's streams, environment and folder, and nothing of the server's."""
    _, folder, environment, numbers, leads = request
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kept = [os.dup2(descriptor, 100 + at, inheritable=True) for at, descriptor in enumerate(given)]
    os.closerange(0, 100)
    for descriptor, number in zip(kept, numbers, strict=True):
        os.dup2(descriptor, number, inheritable=True)
    os.closerange(100, 300)
    if leads:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = sys.__stdin__ = _stream(0, "r")
    sys.stdout = sys.__stdout__ = _stream(1, "w")
    sys.stderr = sys.__stderr__ = _stream(2, "w")


def _stream(descriptor: int, mode: str) -> io.TextIOWrapper | None:
    """As Python opens its own: None for one that is closed."""
    errors = "backslashreplace" if descriptor == 2 else "surrogateescape"
    try:
        stream = open(descriptor, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
    except OSError:
        return None
    assert isinstance(stream, io.TextIOWrapper)
    if mode == "w":
        stream.reconfigure(newline="\n", line_buffering=descriptor == 2 or stream.isatty())
    return stream


def _run(request: Request) -> None:
    """What `python` does with these arguments."""
    arguments, folder, environment, *_ = request
    path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    while (option := arguments.pop(0)) != "-m":
        if option == "-W":
            sys.warnoptions.append(arguments.pop(0))
            warnings.simplefilter("error")  # the only one that tests ask for
        elif option == "-P":
            folder = ""
        else:
            raise SystemExit(f"the warm Python knows no option {option}")
    sys.path[:] = [*filter(None, [folder]), *path, *sys.path]
    sys.path_importer_cache.clear()
    module, *sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    here = Path(sys.argv[1])
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry) != Path(__file__).parent]
    for name in (*PRELOADED, *sys.argv[2:]):
        importlib.import_module(name)
    plugins = Plugins()
    plugins.records()  # imports what the installed ones offer; a fork looks anew
    default_settings(plugins)
    gc.collect()
    gc.freeze()
    todo = serve(here)
    if todo is not None:
        sys.executable = str(here / "python")  # a model's worker, too, begins warm
        _run(todo)
