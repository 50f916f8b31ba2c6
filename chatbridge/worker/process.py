"""A worker process as its parent sees it: started, talked to, and its end put in words.

Knows processes and sockets, on POSIX and on Windows; knows no model and no request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from pydantic import ValidationError

from chatbridge.errors import ModelLoadError
from chatbridge.operations.environment import child_environment
from chatbridge.operations.threads import waiting_variables
from chatbridge.worker.protocol import LINE_LIMIT, FromWorker, ToWorker, read_from_worker, to_worker

log = logging.getLogger(__name__)

_LAST_WORDS_SECONDS = 1.0
"""How long output is waited for once its process has ended."""

_KEY_BYTES = 32

_OUTPUT_TAIL = 2000
"""Bytes of a worker's output, its last ones, that go into the error message."""


class Process(Protocol):
    """A worker as those who use it see it; see `WorkerProcess`."""

    @property
    def pid(self) -> int: ...

    def send(self, message: ToWorker) -> None: ...

    async def receive(self) -> FromWorker | None: ...

    async def end(self, grace: float = 0.0) -> None: ...

    def kill(self, why: str) -> None: ...

    async def exit_reason(self) -> str: ...


class WorkerProcess:
    """One worker process and the socket to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self._output_tail = b""
        self._killed_for = ""
        self._cutting: asyncio.Task[None] | None = None
        self._reading_output = asyncio.create_task(self._read_output())

    @property
    def pid(self) -> int:
        """The system's number of the process."""
        return self.process.pid

    @classmethod
    async def start(
        cls,
        *,
        by_port: bool = sys.platform == "win32",
        hidden: frozenset[str] = frozenset(),
        variables: Mapping[str, str] | None = None,
    ) -> WorkerProcess:
        """Start a worker that inherits a socket or, `by_port`, calls back on the loopback. Raises ModelLoadError.

        `hidden`: names of variables that it is not to have; see `child_environment`. `variables`: further ones that it
        has unless they are set; see `BackendType.variables`.
        """
        inherited = child_environment(hidden)
        environment = {**waiting_variables(inherited, variables), **inherited}
        if by_port:
            return await cls._start_on_a_port(environment)
        ours, theirs = socket.socketpair()
        try:
            process = await _spawn(f"fd:{theirs.fileno()}", environment, pass_fds=(theirs.fileno(),))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            return cls(process, *await asyncio.open_connection(sock=ours, limit=LINE_LIMIT))
        except BaseException:
            ours.close()
            await _discard(process)
            raise

    @classmethod
    async def _start_on_a_port(cls, environment: Mapping[str, str]) -> WorkerProcess:
        """Windows hands no sockets to children: the worker calls back, and shows a key that only it was told."""
        key = secrets.token_hex(_KEY_BYTES)
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        connected = asyncio.get_running_loop().create_future()

        strangers: set[asyncio.Task[Any]] = set()

        async def connection_made(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            this = asyncio.current_task()
            assert this is not None
            strangers.add(this)
            try:
                shown = await reader.readline()
            except (ValueError, OSError, asyncio.CancelledError):  # too long a line, gone, or silent to the end
                shown = b""
            strangers.discard(this)
            if secrets.compare_digest(shown.strip(), key.encode()) and not connected.done():
                connected.set_result((reader, writer))
            else:
                writer.transport.abort()

        server = await asyncio.start_server(connection_made, "127.0.0.1", 0, limit=LINE_LIMIT)
        try:
            address = f"port:{server.sockets[0].getsockname()[1]}"
            process = await _spawn(address, {**environment, "CHATBRIDGE_WORKER_KEY": key})
            ended = asyncio.create_task(process.wait())
            either: list[asyncio.Future[Any]] = [ended, connected]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            except BaseException:
                await _discard(process)
                raise
            finally:
                ended.cancel()
            if not connected.done():
                await _discard(process)
                raise ModelLoadError("the worker process ended before it had begun")
            return cls(process, *connected.result())
        finally:
            for stranger in strangers:  # whoever says nothing is not waited for
                stranger.cancel()
            server.close()  # not `async with`: from Python 3.12.1 on that waits until the connection has ended, too

    def send(self, message: ToWorker) -> None:
        """Raises ValueError for a message that can't be written as JSON."""
        line = to_worker(message)
        if not self._writer.is_closing():
            self._writer.write(line)

    async def receive(self) -> FromWorker | None:
        """What the worker says next; None when it has ended, or was ended for what nobody can read."""
        with suppress(ConnectionError):
            try:
                line = await self._reader.readline()
                if line.endswith(b"\n"):  # a line without an end was cut in two by the worker's death
                    return read_from_worker(line)
            except ValueError as error:  # a value that its plugin may not give, or too long a line
                self.kill(f"it said what can't be read, {_complaint(error)}, and was ended")
        return None

    async def end(self, grace: float = 0.0) -> None:
        """Wait until the process has ended, for `grace` seconds; then kill it."""
        try:
            await asyncio.wait_for(self._exit_code(), grace)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self.process.kill()
        await self.exit_reason()

    def kill(self, why: str) -> None:
        """End the process at once; `why` is what `exit_reason` then says."""
        self._killed_for = self._killed_for or why
        with suppress(ProcessLookupError):
            self.process.kill()
        self._cutting = self._cutting or asyncio.create_task(self._cut())

    async def exit_reason(self) -> str:
        """Wait for the end, and say in words how it came, with the last lines that the worker printed."""
        code = await self._exit_code()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        tail = self._output_tail.decode(errors="replace").strip()
        return (self._killed_for or describe_exit(code)) + (f"; its last words:\n{tail}" if tail else "")

    async def _exit_code(self) -> int:
        """Wait for the end of the process, and no longer than a moment for the end of its output.

        A program that the process has started may have that open for ever; and some versions of asyncio say that a
        process has ended only when its output has.
        """
        waiting = asyncio.create_task(self.process.wait())
        try:
            ended = False
            while (await asyncio.wait({waiting, self._reading_output}, timeout=_LAST_WORDS_SECONDS))[1]:
                output = self.process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]  # no public way
                if ended and output is not None:
                    output.close()
                ended = self.process.returncode is not None
            return waiting.result()
        finally:
            waiting.cancel()

    async def _cut(self) -> None:
        """Let `receive` end with the process, also where one that was forked from it has the socket open."""
        await self._exit_code()
        self._writer.transport.abort()

    async def _read_output(self) -> None:
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(1 << 16):
            log.debug("worker %d: %s", self.process.pid, data.decode(errors="replace").rstrip())
            self._output_tail = (self._output_tail + data)[-_OUTPUT_TAIL:]


def _complaint(error: ValueError) -> str:
    """What is wrong with a message, and where in it."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


async def _discard(process: asyncio.subprocess.Process) -> None:
    """End a process that nobody will talk to."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.communicate()  # closes its pipe


async def _spawn(
    address: str, environment: Mapping[str, str], pass_fds: tuple[int, ...] = ()
) -> asyncio.subprocess.Process:
    """Start a worker. Where that is cancelled, it is first begun and then ended: asyncio would leave a pipe."""
    starting = asyncio.ensure_future(_start(address, pass_fds, environment))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _discard(await starting)
        raise


async def _start(address: str, pass_fds: tuple[int, ...], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "chatbridge.worker", address),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        pass_fds=pass_fds,
        env={
            **environment,
            # ggml's abort would otherwise start gdb for a backtrace.
            "GGML_NO_BACKTRACE": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
        },
    )


def describe_exit(code: int) -> str:
    """What an exit status says of how a process ended, in words."""
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
