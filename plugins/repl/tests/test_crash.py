"""The worker of a model dies in the middle of an answer: the answer goes on, and the talk with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("signals end processes on POSIX systems", allow_module_level=True)
import pexpect

from chatbridge.testing import default_signals

MODEL = (
    "{{backend: toy, template: chatml, eos_every: 1000000000, "
    "crash_file: {file}, crash_signal: {by}, crash_after: {after}}}"
)


def bots(folder: Path, by: signal.Signals, times: int, after: int = 50) -> None:
    """A bots.yaml whose model dies `times` times, each time in step `after` of its process."""
    (folder / "crashes").write_text(f"{times:03}")
    model = MODEL.format(file=folder / "crashes", by=int(by), after=after)
    sampling = "{temperature: 1, seed: 3, max_tokens: 150}"
    (folder / "bots.yaml").write_text(f"models:\n  toy: {model}\ndefaults: {{sampling: {sampling}}}\n")


def piped(python: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "chatbridge", "repl"],
        input="hello\nand again\n",
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("by", [signal.SIGSEGV, signal.SIGKILL])
def test_answers_are_the_same_with_a_crash_and_without(
    environment: dict[str, str], tmp_path: Path, warm_python: str, by: signal.Signals
) -> None:
    bots(tmp_path, by, times=0)
    without = piped(warm_python, tmp_path, environment)
    bots(tmp_path, by, times=1)
    crashed = piped(sys.executable, tmp_path, environment)
    assert (tmp_path / "crashes").read_text() == "000", "it never crashed"
    assert crashed.returncode == without.returncode == 0
    assert crashed.stdout == without.stdout != ""
    assert by.name in crashed.stderr
    assert "died" not in without.stderr


def test_a_model_that_dies_again_and_again_is_told_of_and_the_talk_goes_on(
    environment: dict[str, str], tmp_path: Path
) -> None:
    bots(tmp_path, signal.SIGSEGV, times=2, after=1)
    with default_signals():
        repl = pexpect.spawn(
            sys.executable,
            ["-m", "chatbridge", "repl"],
            env=environment,
            cwd=str(tmp_path),
            encoding="utf-8",
            timeout=30,
        )
    repl.delaybeforesend = None
    repl.expect("you>")
    repl.send("hello\r")
    repl.expect("died twice under this answer")
    repl.expect("you>")
    repl.send("/regenerate\r")
    repl.expect(r"150 tokens")
    repl.expect("you>")
    repl.sendeof()
    repl.expect(pexpect.EOF)
    repl.close()
    assert repl.exitstatus == 0
