"""`chatbridge run`: starts bots, ends cleanly when it is told to, and says why it can't start."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., "subprocess.Popen[str]"]

FRONTENDS = """
    import asyncio
    from chatbridge import hookimpl

    async def serve(options, bot):
        print("starts", bot.name, flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("stops", bot.name, flush=True)

    async def brief(options, bot):
        print("ends", bot.name, flush=True)

    @hookimpl
    def register_frontends():
        from chatbridge import FrontendType, Options
        return [FrontendType("steady", Options, "", serve), FrontendType("brief", Options, "", brief, ends=True)]

    @hookimpl
    def register_backends():
        from chatbridge.testing import ScriptedBackend, scripted, toy_backend
        return [scripted(ScriptedBackend()), toy_backend]
"""
MODELS = "models: {m: {backend: scripted}}\n"
BOTS = "bots: {a: {frontend: steady}, b: {frontend: steady}}\n"


@pytest.fixture
def folder(tmp_path: Path, install: Callable[..., Path]) -> Path:
    """A folder with a bots.yaml of two bots."""
    install("steady", FRONTENDS)
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
        assert lines(process, 2) == ["starts a\n", "starts b\n"]
        process.send_signal(sign)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert sorted(out.splitlines()) == ["stops a", "stops b"]
    assert err.endswith("stopped\n")
    assert "Traceback" not in err


IGNORING = ["-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-m", "chatbridge", "run"]
"""What a shell starts that ignores SIGINT, as for a command with `&`; the program inherits it."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither shells nor pseudo-terminals like these")
def test_ctrl_c_in_a_terminal_ends_it_however_it_was_started(folder: Path) -> None:
    import pexpect

    site = {**os.environ, "PYTHONPATH": str(folder / "site")}
    program = pexpect.spawn("/bin/sh", IGNORING, cwd=str(folder), env=site, encoding="utf-8", timeout=60)
    program.expect("starts [ab].*starts [ab]")
    program.sendintr()
    program.expect("stopped")
    program.expect(pexpect.EOF)
    program.close()
    assert program.exitstatus == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such shells")
def test_without_a_terminal_it_goes_on_ignoring_what_its_starter_ignores(folder: Path) -> None:
    site = {**os.environ, "PYTHONPATH": str(folder / "site")}
    with subprocess.Popen(
        ["/bin/sh", *IGNORING],
        cwd=folder,
        env=site,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert lines(process, 2) == ["starts a\n", "starts b\n"]
            process.send_signal(signal.SIGINT)
            (folder / "new.yaml").write_text(MODELS + "bots: {b: {frontend: brief}}\n", encoding="utf-8")
            (folder / "new.yaml").replace(folder / "bots.yaml")  # it ends with its bots, and not before
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out.endswith("ends b\n")
    assert "stopped" not in err
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
def test_it_follows_its_file(start_chatbridge: Start, folder: Path) -> None:
    with running(start_chatbridge, "b") as process:
        assert lines(process, 1) == ["starts b\n"]
        (folder / "new.yaml").write_text(MODELS + "bots: {b: {frontend: brief}}\n", encoding="utf-8")
        (folder / "new.yaml").replace(folder / "bots.yaml")
        out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (0, "stops b\nends b\n"), err


def test_it_ends_when_its_bots_have_ended(chatbridge: Run, folder: Path) -> None:
    (folder / "other.yaml").write_text(MODELS + "bots: {a: {frontend: brief}}\n", encoding="utf-8")
    done = chatbridge("run", "-c", "other.yaml")
    assert (done.returncode, done.stdout) == (0, "ends a\n")
    assert "INFO chatbridge.bridge: bot a: brief starts\n" in done.stderr
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
    assert done.returncode == (78 if told else 1), "a supervisor need not try bots.yaml again"
    assert f"chatbridge: {told}" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# --- dry run, logs, monitor, drain ---------------------------------------------------------------------------------


def test_a_dry_run_loads_everything_and_starts_nothing(chatbridge: Run, folder: Path) -> None:
    text = (
        "models: {m: {backend: toy, template: chatml}}\n"
        "bots:\n  a: {frontend: steady, defaults: {prefix: '!', chance: 0.25},\n"
        "      channels: {'1': {reply_to: never, template: alpaca}}}\n  b: {frontend: steady}\n"
    )
    (folder / "bots.yaml").write_text(text, encoding="utf-8")
    done = chatbridge("run", "--dry-run", "a")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("model m: loads; ")
    assert rest[0] == "bot a: steady"
    assert "template chatml, answers mentions, replies, '!', 25% of the rest" in rest[1]
    assert "channel 1: model m, template alpaca, answers '!'" in rest[2]
    assert len([line for line in rest if line.startswith("bot")]) == 1
    assert "starts a" not in done.stdout
    assert not (folder / "chatbridge.sqlite3").exists()
    assert "everything is ready" in done.stderr


def test_a_dry_run_says_what_would_fail(chatbridge: Run, folder: Path) -> None:
    text = "models: {m: {backend: scripted}}\nbots: {a: {frontend: steady}}\n"
    (folder / "bots.yaml").write_text(text, encoding="utf-8")
    done = chatbridge("run", "--dry-run")
    assert done.returncode == 1
    assert "everywhere: model m: FAILS: the model 'm' does not say which template" in done.stdout
    assert done.stderr.endswith("1 of these would fail\n")
    (folder / "bots.yaml").write_text(text.replace("scripted", "toy, fail_load: no letters left"), encoding="utf-8")
    done = chatbridge("run", "--dry-run")
    assert re.search("(?m)^model m: FAILS: .*no letters left", done.stdout)
    assert "everywhere: model m FAILS\n" in done.stdout
    assert done.stderr.endswith("2 of these would fail\n")
    done = chatbridge("run", "--dry-run", "c")
    assert "bots.yaml has no bot 'c'" in done.stderr


def test_the_log_can_be_json(chatbridge: Run, folder: Path) -> None:
    (folder / "other.yaml").write_text(MODELS + "bots: {a: {frontend: brief}}\n", encoding="utf-8")
    done = chatbridge("run", "-c", "other.yaml", "--log-format", "json")
    assert done.returncode == 0
    told = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert "bot a: brief starts" in told


LEAKY = """
    import asyncio
    from chatbridge import hookimpl

    async def leak(options, bot):
        raise ConnectionError("POST https://example.org/bot" + options.token.get_secret_value() + "/getMe")

    @hookimpl
    def register_frontends():
        from chatbridge import FrontendType, Options, Secret
        class Leaky(Options):
            token: Secret
        return [FrontendType("leaky", Leaky, "", leak)]
"""


def test_a_token_in_an_error_is_not_in_the_log(
    start_chatbridge: Start, folder: Path, install: Callable[..., Path]
) -> None:
    install("leaky", LEAKY)
    text = MODELS + "bots: {a: {frontend: leaky, token: 'open sesame'}}\nmonitor: 127.0.0.1:0\n"
    (folder / "bots.yaml").write_text(text, encoding="utf-8")
    with running(start_chatbridge) as process:
        assert process.stderr is not None
        log = ""
        while "ConnectionError: " not in log:
            log += process.stderr.readline()
        assert "/bot[hidden]/getMe" in log
        assert "sesame" not in log
        port = re.search(r"at 127.0.0.1:(\d+)", log)
        assert port is not None
        with pytest.raises(urllib.error.HTTPError) as failing:
            urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/healthz")
        assert failing.value.code == 503
        assert json.loads(failing.value.read())["bots"] == {"a": "failing"}
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics") as numbers:
            assert b"chatbridge_event_loop_lag_seconds" in numbers.read()


SLOW = """
    import asyncio
    from chatbridge import hookimpl

    async def run(options, bot):
        from chatbridge import Author, Channel, Delivery, Limits, Message
        from chatbridge.testing import FakeService
        service = FakeService(Limits(2000))
        try:
            async with Delivery(bot, service.chat, service.limits) as delivery:
                await delivery.resume()
                try:
                    await delivery.accept(Message("1", Channel("c"), Author("a", "Ann"), "hello"))
                    await asyncio.Event().wait()
                finally:
                    print("told to end", flush=True)
                    asyncio.get_running_loop().call_later(0.2, GATE.set)
        finally:
            print(service.shown("c"), flush=True)

    GATE = asyncio.Event()

    @hookimpl
    def register_frontends():
        from chatbridge import FrontendType, Options
        return [FrontendType("slow", Options, "", run)]

    @hookimpl
    def register_backends():
        from chatbridge.testing import ScriptedBackend, scripted
        backend = ScriptedBackend("one two three")
        backend.hold = GATE
        original = backend.generate
        async def generate(request):
            print("answering", flush=True)
            async for chunk in original(request):
                yield chunk
        backend.generate = generate
        return [scripted(backend)]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
@pytest.mark.parametrize("drain", [60, 0])
def test_a_shutdown_lets_answers_end_and_the_rest_goes_on_at_the_next_start(
    start_chatbridge: Start, tmp_path: Path, install: Callable[..., Path], drain: int
) -> None:
    install("slow", SLOW)
    text = f"models: {{m: {{backend: scripted, template: alpaca}}}}\nbots: {{a: {{frontend: slow}}}}\ndrain: {drain}\n"
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    with running(start_chatbridge) as process:
        assert lines(process, 1) == ["answering\n"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert ("['one two three']" in out) == (drain > 0), out
    with sqlite3.connect(tmp_path / "chatbridge.sqlite3") as store:
        states = store.execute("SELECT state, attempts FROM inbox").fetchall()
    store.close()
    assert states == ([("done", 1)] if drain else [("waiting", 0)])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
def test_a_second_signal_ends_it_at_once(start_chatbridge: Start, tmp_path: Path, install: Callable[..., Path]) -> None:
    install("slow", SLOW.replace("call_later(0.2", "call_later(900"))
    text = "models: {m: {backend: scripted, template: alpaca}}\nbots: {a: {frontend: slow}}\ndrain: 900\n"
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    with running(start_chatbridge) as process:
        assert lines(process, 1) == ["answering\n"]
        process.send_signal(signal.SIGTERM)
        assert lines(process, 1) == ["told to end\n"]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "ending at once" in err
