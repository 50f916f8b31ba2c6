"""`chatbridge run`: starts bots, ends cleanly when it is told to, and says why it can't start."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., "subprocess.Popen[str]"]

STAGE = """
    import asyncio
    from chatbridge import hookimpl

    async def play(options, bot):
        print("enters", bot.name, flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("leaves", bot.name, flush=True)

    async def bow(options, bot):
        print("bows", bot.name, flush=True)

    @hookimpl
    def register_frontends():
        from chatbridge import FrontendType, Options
        return [FrontendType("stage", Options, "", play), FrontendType("bow", Options, "", bow)]

    @hookimpl
    def register_backends():
        from chatbridge.testing import ScriptedBackend, scripted, toy_backend
        return [scripted(ScriptedBackend()), toy_backend]
"""
MODELS = "models: {m: {backend: scripted}}\n"
BOTS = "bots: {a: {frontend: stage}, b: {frontend: stage}}\n"


@pytest.fixture
def folder(tmp_path: Path, install: Callable[..., Path]) -> Path:
    """A folder with a bots.yaml of two bots."""
    install("stage", STAGE)
    (tmp_path / "bots.yaml").write_text(MODELS + BOTS, encoding="utf-8")
    return tmp_path


@contextmanager
def running(start: Start, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = start("run", *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines that it prints, sorted."""
    assert process.stdout is not None
    return sorted(process.stdout.readline() for _ in range(count))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("models", [MODELS, "models: {m: {backend: toy}}\n"], ids=["connected", "worker"])
def test_a_signal_ends_it_cleanly(start_chatbridge: Start, folder: Path, sign: signal.Signals, models: str) -> None:
    (folder / "bots.yaml").write_text(models + BOTS, encoding="utf-8")
    with running(start_chatbridge) as process:
        assert lines(process, 2) == ["enters a\n", "enters b\n"]
        process.send_signal(sign)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert sorted(out.splitlines()) == ["leaves a", "leaves b"]
    assert err.endswith("stopped\n")
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
def test_it_follows_its_file(start_chatbridge: Start, folder: Path) -> None:
    with running(start_chatbridge, "b") as process:
        assert lines(process, 1) == ["enters b\n"]
        (folder / "new.yaml").write_text(MODELS + "bots: {b: {frontend: bow}}\n", encoding="utf-8")
        (folder / "new.yaml").replace(folder / "bots.yaml")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "leaves b\nbows b\n"), err


def test_it_ends_when_its_bots_have_ended(chatbridge: Run, folder: Path) -> None:
    (folder / "other.yaml").write_text(MODELS + "bots: {a: {frontend: bow}}\n", encoding="utf-8")
    done = chatbridge("run", "-c", "other.yaml")
    assert (done.returncode, done.stdout) == (0, "bows a\n")
    assert "INFO chatbridge.bridge: bot a: bow starts\n" in done.stderr
    assert "DEBUG" not in done.stderr
    assert "DEBUG" in chatbridge("run", "-v", "-c", "other.yaml").stderr


@pytest.mark.parametrize(
    ("text", "arguments", "told"),
    [
        (MODELS, [], "bots.yaml has no bots; add one under `bots:`, or talk to a model by `chatbridge repl`\n"),
        (MODELS + BOTS, ["c", "a"], "bots.yaml has no bot 'c'"),
        ("stor: 1\n", [], "bots.yaml:1:1: there is no key 'stor' at the top of the file; did you mean 'store'?\n"),
        (MODELS + BOTS, ["-c", "nowhere.yaml"], "nowhere.yaml:1:1: this file can't be read: "),
        (MODELS + BOTS + "store: .\n", [], ""),
    ],
    ids=["no bots", "unknown bot", "bad file", "no file", "no store"],
)
def test_it_says_why_it_cannot_start(chatbridge: Run, folder: Path, text: str, arguments: list[str], told: str) -> None:
    (folder / "bots.yaml").write_text(text, encoding="utf-8")
    done = chatbridge("run", *arguments)
    assert done.returncode == 1
    assert f"chatbridge: {told}" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
