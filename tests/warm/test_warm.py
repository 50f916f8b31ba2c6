"""A program that starts warm meets what one of a Python of its own meets, and ends as it does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from chatbridge.testing import default_signals

if sys.platform != "linux":
    pytest.skip("all programs start cold here", allow_module_level=True)

PROBE = """
    import os, signal, sys, warnings

    def number(descriptor):
        try:
            return os.fstat(descriptor) is not None
        except OSError:
            return False

    print(sys.argv[1:], os.getcwd(), sorted({**os.environ}), [n for n in range(64) if number(n)])
    print([(s and (s.encoding, s.errors, s.line_buffering)) for s in (sys.stdin, sys.stdout, sys.stderr)])
    print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)])
    print(sys.path[:2], sys.stdin and sys.stdin.read(), "said", file=sys.stderr)
    if sys.argv[1] == "warn":
        warnings.warn("a warning", stacklevel=1)
    elif sys.argv[1] == "raise":
        raise KeyError("nothing")
    elif sys.argv[1].startswith("SIG"):
        sys.stdout.flush(), sys.stderr.flush()
        signal.pause() if sys.argv[2:] else os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    sys.exit(int(sys.argv[1]) if sys.argv[1].isdigit() else None)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "probe.py").write_text(dedent(PROBE), "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "redirected"),
    [("0", ""), ("3 世界", ""), ("raise", ""), ("warn", ""), ("SIGKILL", ""), ("SIGSEGV", ""), ("SIGTERM", "")]
    + [("0", redirected) for redirected in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "7</dev/null")],
)
def test_it_is_as_if_it_had_started_cold(site: Path, warm_python: str, arguments: str, redirected: str) -> None:
    environment = {"PYTHONPATH": str(site), "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "NAME": "世界"}
    command = f'"$0" -W error -m probe {arguments} {redirected}'
    with default_signals():
        cold, warm = (
            subprocess.run(
                ["/bin/sh", "-c", command, python], cwd=site, env=environment, input=b"\xff in", capture_output=True
            )
            for python in (sys.executable, warm_python)
        )
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert warm.stderr.splitlines()[:1] == cold.stderr.splitlines()[:1]
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_signal_reaches_the_program(site: Path, warm_python: str, number: signal.Signals) -> None:
    command = [warm_python, "-m", "probe", number.name, "wait"]
    environment = {"PYTHONPATH": str(site)}
    with subprocess.Popen(
        command, cwd=site, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(number)
        program.stdout.read()  # which ends when the program has
    assert program.returncode == -number
