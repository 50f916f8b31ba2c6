"""One program at a time: a lock beside the database that the operating system lets go when its holder ends.

Knows files and processes, no database. The lock is of an open file (`flock`; on Windows a locked byte), so that nothing
is left of it after `kill -9`, two holders in one process keep each other out as well, and a worker that outlives its
program holds none. The file says who holds it and is never deleted: to delete a lock is to let two in. `filelock`
empties the file of whoever tries, and with it the name of the one who has it.

On a network drive the lock holds between machines where the drive hands locks on (NFS with lockd, most SMB); where
there are none, `acquire` says so in the log and goes on. SQLite's WAL works on no network drive between two machines.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from chatbridge.errors import StoreInUse
from chatbridge.operations.file_locks import try_lock
from chatbridge.store.private import open_private

_MOST = 1 << 16
"""Bytes of the file that are read."""


class StoreLock:
    """The lock of the database at `path`; `config`: the bots.yaml of whoever takes it, for the others to read."""

    def __init__(self, path: Path, config: str = "") -> None:
        self.file = path.with_name(f"{path.name}.lock")
        self._path = path
        self._config = config
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it, and say in the file who has it. Raises: StoreInUse where another has it, OSError."""
        descriptor = open_private(self.file)
        try:
            if not try_lock(descriptor, self.file):
                raise StoreInUse(_told(self._path, _read(descriptor)))
            config = str(Path(self._config).absolute()) if self._config else ""
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "config": config}
            with suppress(OSError):  # a full disk takes the name away, and not the lock
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(who).encode())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let it go; may be called when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read(descriptor: int) -> dict[str, object]:
    """Who holds it, as they have written there; nothing where they are just about to."""
    with suppress(OSError, ValueError, RecursionError):
        who = json.loads(os.read(descriptor, _MOST))
        return who if isinstance(who, dict) else {}
    return {}


def _told(path: Path, who: dict[str, object]) -> str:
    pid, host, since, config = (who.get(name) for name in ("pid", "host", "since", "config"))
    parts = [f"process {pid}" if isinstance(pid, int) else "a process that is just starting"]
    if isinstance(host, str) and host.isprintable() and host:
        parts.append(f"on {host}")
    if isinstance(since, int | float):
        with suppress(OverflowError, ValueError, OSError):  # no time that a calendar knows
            parts.append(f"since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(since))}")
    if isinstance(config, str) and config.isprintable() and config:
        parts.append(f"with {config}")
    return (
        f"{path} is in use by another program: {', '.join(parts)}. Two would answer everybody twice: end that one, or "
        "name another file under `store:` in this bots.yaml. `chatbridge queue` and `chatbridge repl` work beside it"
    )
