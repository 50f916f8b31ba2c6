"""Streams that are closed, full or unread, files that are no files, and no home: one line, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .engines import leave_out_engines

if sys.platform == "win32":
    pytest.skip("a shell of POSIX is needed", allow_module_level=True)

COMMANDS = ["--help", "check", "doctor", "plugins", "queue --store db", "schema", "templates", "repl -p hello"]
GOOD = "models: {g: {backend: numpy}}\nbots: {t: {frontend: repl}}\nstore: store\n"

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shell(tmp_path: Path, warm_python: str) -> Shell:
    """Runs `chatbridge ARGUMENTS` with redirections as a shell understands them. `cold`: by a Python of its own."""
    (tmp_path / "bots.yaml").write_text(GOOD, "utf-8")
    (tmp_path / "db").touch(0o600)
    site = tmp_path / ".site"
    leave_out_engines(site)

    def run(line: str, *, cold: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR")}
        python = sys.executable if cold else warm_python
        return subprocess.run(
            ["/bin/bash", "-c", f'chatbridge() {{ "$0" -m chatbridge "$@"; }}; {line}', python],
            cwd=tmp_path,
            env={**kept, "HOME": str(tmp_path), "LANG": "C.UTF-8", "PYTHONPATH": str(site), **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )

    return run


@pytest.mark.parametrize(("redirected", "why"), [(">&-", "it is closed"), (">/dev/full", "No space left on device")])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_can_not_be_written_is_told(shell: Shell, command: str, redirected: str, why: str) -> None:
    done = shell(f"chatbridge {command} {redirected}", cold=command == "check")
    assert (done.returncode, done.stderr) == (1, f"chatbridge: the output can't be written: {why}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_gone_is_no_failure(shell: Shell, command: str) -> None:
    done = shell(f"chatbridge {command} | true; exit ${{PIPESTATUS[0]}}", cold=command == "check")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirected", ["2>&-", "<&-", "2>/dev/full"])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_needed_may_be_closed(shell: Shell, command: str, redirected: str) -> None:
    done = shell(f"chatbridge {command} {redirected}", cold=command == "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["check nowhere.yaml", "run -c nowhere.yaml", "templates show nothing"])
def test_an_error_that_nobody_can_read_is_an_exit_status(shell: Shell, command: str, redirected: str) -> None:
    done = shell(f"chatbridge {command} {redirected}", cold="templates" in command)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr


def test_the_database_never_takes_the_place_of_a_closed_stream(shell: Shell, tmp_path: Path) -> None:
    shell("chatbridge repl -p hello <&- >&- 2>&-", cold=True)
    assert (tmp_path / "store").read_bytes().startswith(b"SQLite format 3\0")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
BAD = {
    "deep": (b"[" * 5000 + b"]" * 5000, "nested more than 40 deep"),
    "json": (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested more than 40 deep"),
    "bomb": (BOMB.encode(), "more than 50000 values"),
    "binary": (b"\x7fELF\x02\x01\x01\xff\xfe" * 100, "no UTF-8"),
    "huge": (b"#" * (8 * 2**20 + 1), "more than 8 MiB"),
}


@pytest.mark.parametrize("name", [*BAD, "folder", "/dev/zero"])
def test_what_is_no_configuration_is_told_in_a_line(shell: Shell, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    why = {"folder": "Is a directory", "/dev/zero": "more than 8 MiB"}.get(name, "")
    if name in BAD:
        data, why = BAD[name]
        (tmp_path / name).write_bytes(data)
    for command, status in (("run", 78), ("queue", 1)):
        done = shell(f"chatbridge {command} -c {name}")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
        assert why in done.stderr


def test_a_pipe_is_a_configuration_where_somebody_writes_it(shell: Shell) -> None:
    assert shell("chatbridge check <(cat bots.yaml)").returncode == 0
    silent = shell("mkfifo pipe; chatbridge check pipe")
    assert "nobody writes to this pipe" in silent.stdout


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null", "relative"])
def test_without_a_home_the_person_is_told_what_to_do(shell: Shell, tmp_path: Path, home: str) -> None:
    (tmp_path / "bots.yaml").unlink()
    done = shell("chatbridge repl -p hello", HOME=home)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "set HOME" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".site", "db"]
