"""Runs one piece of work on files in a process of its own, since llama.cpp aborts on some of them.

The parent writes what is to be done to the process's stdin, and reads lines of JSON: how far it is, and how it ended.
The process ends with its parent, however that ends: its stdin closes then. Knows no work.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import IO, Any

from chatbridge import ModelLoadError, WorkProgress, child_environment, waiting_variables

Facts = dict[str, Any]
"""What JSON can say."""

Tell = Callable[[Facts], None]
"""Tells the parent: {"begin": [doing, bytes]} or {"advance": bytes}."""

_TAIL = 2000
"""Bytes of what the process printed last that go into the error message."""


def run_job(work: str, facts: Mapping[str, Any], progress: WorkProgress) -> Facts:
    """What `work` returns for these facts. Raises ModelLoadError, as it does, or for a crash.

    `work`: module:function, so that the module is imported there alone; the function takes the facts and a `Tell`.
    """
    given = child_environment()
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**waiting_variables(given), **given, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", __name__, work]
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed, env=environment
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(facts).encode() + b"\n")
            process.stdin.flush()
            ended = _listen(process.stdout, progress)
            process.wait()
        except BrokenPipeError:
            ended = None
            process.wait()
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                _close(pipe)
        if ended is None:
            raise ModelLoadError(_last_words(process.returncode, printed))
    if "error" in ended:
        raise ModelLoadError(ended["error"])
    done: Facts = ended["done"]
    return done


def _listen(lines: IO[bytes], progress: WorkProgress) -> Facts | None:
    """The last line, once the process has said it; None where it ended without."""
    for line in lines:
        told = json.loads(line)
        if "begin" in told:
            progress.begin(*told["begin"])
        elif "advance" in told:
            progress.advance(told["advance"])
        else:
            assert isinstance(told, dict)
            return told
    return None


def _close(pipe: IO[bytes]) -> None:
    with suppress(OSError):  # what was not taken is wanted by nobody
        pipe.close()


def _last_words(code: int, printed: IO[bytes]) -> str:
    try:
        how = f"by the signal {signal.Signals(-code).name}" if code < 0 else f"with the code {code}"
    except ValueError:
        how = f"with the code {code}"
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - _TAIL))
    tail = printed.read().decode(errors="replace").strip()
    memory = "; the system may have been out of memory" if code == -9 else ""
    return f"the process in which llama.cpp worked ended {how}{memory}" + (f"; its last words:\n{tail}" if tail else "")


def _main(name: str) -> None:
    """Do one piece of work. What libraries print to stdout goes to stderr, so that lines of ours stay whole."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(facts: Facts) -> None:
        with lock:
            print(json.dumps(facts), file=told, flush=True)

    facts = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, function = name.partition(":")
    try:
        done = getattr(import_module(module), function)(facts, tell)
    except ModelLoadError as error:
        tell({"error": str(error)})
    else:
        tell({"done": done})
    os._exit(0)  # the other thread still reads


def _end_with_parent() -> None:
    while os.read(0, 1):  # not by sys.stdin, whose lock Python wants when it ends
        pass
    os._exit(1)


if __name__ == "__main__":
    _main(sys.argv[1])
