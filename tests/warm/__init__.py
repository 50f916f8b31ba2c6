"""A Python that has chatbridge imported already, for tests that start the program often; see `server`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatbridge.operations.threads import waiting_variables

HERE = Path(__file__).parent


@contextmanager
def warm_python(*libraries: str) -> Iterator[str]:
    """Run a server; the file to start in place of `sys.executable`. That itself where forks are not to be trusted.

    `libraries`: what forks have imported besides.
    """
    if sys.platform != "linux":
        yield sys.executable
        return
    with tempfile.TemporaryDirectory(prefix="warm") as folder:  # a socket's name may have no more than 100 letters
        client = Path(folder) / "python"
        source = (HERE / "client.py").read_text("utf-8")
        client.write_text(f"#!{sys.executable} -IS\n{source}", "utf-8")
        client.chmod(0o700)
        # What libraries read once: threads do not survive a fork, and are to wait as those of workers do.
        environment = {"PATH": os.environ["PATH"], "PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment |= waiting_variables(environment)
        command = [sys.executable, str(HERE / "server.py"), folder, *libraries]
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield str(client)
