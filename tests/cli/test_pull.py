"""`chatbridge model pull` and `model list`, and what `repl -m` offers to fetch: as programs, against a stand-in hub."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from chatbridge import guide_path
from chatbridge.cli import main
from chatbridge.model_tools.fetching.catalogue import catalogue
from chatbridge.plugins.manager import Plugins
from chatbridge.plugins.packages import install_command
from chatbridge.testing import default_signals
from tests.model_tools.server import Server, serving

BODY = Random(3).randbytes(3_000_000)
NAME = "qwen2.5-0.5b"
Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of files, which is the hub for programs that are started."""
    with serving() as one:
        yield one


@pytest.fixture
def environment(server: Server, tmp_path: Path) -> dict[str, str]:
    """Variables of somebody at home in an empty folder, whose hub is the stand-in."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "SYSTEMROOT", "TMPDIR")}
    home = {"HOME": str(tmp_path), "APPDATA": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    terminal = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONIOENCODING": "utf-8", "PROMPT_TOOLKIT_NO_CPR": "1"}
    models = {"CHATBRIDGE_MODELS": str(tmp_path / "models"), "HF_ENDPOINT": server.address}
    return {**kept, **home, **terminal, **models}


@pytest.fixture
def program(environment: dict[str, str], tmp_path: Path, warm_python: str) -> Program:
    """The command line, as a program of its own."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm_python, "-m", "chatbridge", *arguments],
            env={**environment, **variables},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )

    return run


def serve_guide(server: Server) -> None:
    """The bundled model under the name that the catalogue knows another by."""
    file = guide_path().read_bytes()
    server.repository(
        catalogue()[NAME].source, {catalogue()[NAME].run: file, "other.gguf": b"x"}, large=("other.gguf",)
    )


def test_sizes_come_first_and_then_what_it_is(program: Program, server: Server, tmp_path: Path) -> None:
    server.put("/guide.gguf", guide_path().read_bytes())
    done = program("model", "pull", server.url("/guide.gguf?key=secret"))
    assert done.returncode == 0, done.stderr
    what, into, *_, last = done.stderr.splitlines()
    assert re.fullmatch(rf"{re.escape(server.url('/guide.gguf'))}: guide\.gguf, \d+ MiB", what)
    assert re.fullmatch(
        rf"into {re.escape(str(tmp_path / 'models' / 'guide'))}, whose disk has [\d.]+ [GM]iB free", into
    )
    assert last == f"{tmp_path / 'models' / 'guide'} is fetched"
    assert done.stdout == f"Talk to it: chatbridge repl -m {tmp_path / 'models' / 'guide'}\n"
    assert "secret" not in done.stdout + done.stderr
    again = program("model", "pull", server.url("/guide.gguf"))
    assert again.stderr.splitlines()[-1].endswith("is there already, and each file has its checksum")
    listed = program("model", "list").stdout
    assert listed.splitlines()[-2:] == [f"fetched ones are in {tmp_path / 'models'}, and besides:", "  guide"]


def test_a_run_that_was_killed_is_gone_on_with(
    program: Program, server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    server.put("/m.bin", BODY)
    server.stall_after = 2_500_000
    arguments = ["-m", "chatbridge", "model", "pull", server.url("/m.bin"), "-o", "m"]
    killed = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        assert server.stalled.wait(60)
        part = tmp_path / "m.partial" / "m.bin.fetching"
        while not (part.exists() and part.stat().st_size >= 2 << 20):
            assert killed.poll() is None
    finally:
        killed.kill()
        killed.wait()
    server.stall_after = None
    assert not (tmp_path / "m").exists()
    there = part.stat().st_size
    done = program("model", "pull", server.url("/m.bin"), "-o", "m")
    assert "2 MiB of it from an earlier run" in done.stderr
    assert server.ranges("/m.bin") == [None, f"bytes={there}-"]
    assert (tmp_path / "m" / "m.bin").read_bytes() == BODY
    assert done.stderr.endswith("m is fetched\nerror: m/m.bin: this is no file of torch or safetensors\n")
    assert done.returncode == 1
    assert program("model", "pull", server.url("/m.bin"), "-o", "m").returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("m")) == ["m"]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
def test_ctrl_c_says_that_it_can_be_gone_on_with(server: Server, environment: dict[str, str], tmp_path: Path) -> None:
    server.put("/m.bin", BODY)
    server.stall_after = 2_500_000
    arguments = ["-m", "chatbridge", "model", "pull", server.url("/m.bin")]
    with default_signals():
        program = subprocess.Popen(
            [sys.executable, *arguments], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, encoding="utf-8"
        )
    assert server.stalled.wait(60)
    program.send_signal(signal.SIGINT)
    _, told = program.communicate(timeout=60)
    assert (program.returncode, told.splitlines()[-1]) == (130, "stopped; the same command goes on where it was")


def test_a_name_of_the_catalogue_is_fetched_and_listed(program: Program, server: Server, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    serve_guide(server)
    before = json.loads(program("model", "list", "--json").stdout)
    assert {one["name"]: one["path"] for one in before}[NAME] is None
    done = program("model", "pull", NAME)
    assert done.returncode == 0, done.stderr
    assert "; 1 other file is left out" in done.stderr
    install = "" if "llama_cpp" in Plugins().backends else f", after {install_command('backend', 'llama_cpp')}"
    assert done.stdout == f"Talk to it{install}: chatbridge repl -m {NAME}\n"
    folder = tmp_path / "models" / NAME
    assert {path.name for path in folder.iterdir()} == {catalogue()[NAME].run, "chatbridge-report.json"}
    after = json.loads(program("model", "list", "--json").stdout)
    assert {one["name"]: one["path"] for one in after}[NAME] == str(folder / catalogue()[NAME].run)
    (tmp_path / "bots.yaml").write_text(f"models: {{m: {{catalogue: {NAME}}}}}\nbots: {{t: {{frontend: repl}}}}\n")
    assert "good; 1 model" in program("check").stdout or "pip install" in program("check").stdout
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    for command in ("check", "run"):
        refused = program(command)
        assert refused.returncode in (1, 78)
        assert f"bots.yaml:1:25: {NAME} is not fetched yet (about 0.5 GiB): chatbridge model pull {NAME}" in (
            refused.stdout + refused.stderr
        )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("pull", "qwen2.5-0.5"),
            f"chatbridge: there is no model 'qwen2.5-0.5' in the catalogue; did you mean '{NAME}'?\n",
        ),
        (("pull", "zzz"), "chatbridge: there is no model 'zzz' in the catalogue; `chatbridge model list` has all\n"),
        (("pull", "glm-130b"), "by request only: ask at https://github.com/THUDM/GLM-130B\n"),
        (("pull", "file:///etc/passwd"), "only addresses with https:// are fetched\n"),
    ],
)
def test_what_can_not_be_fetched_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(("model", *arguments))
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (1, "")
    assert printed.err.endswith(told)
    assert printed.err.count("\n") == 1


def test_the_list_has_size_licence_and_template(capsys: pytest.CaptureFixture[str]) -> None:
    for language, told, head in (
        ("en", "English and Chinese", "about 0.5 GiB  Apache-2.0; llama_cpp, template model"),
        ("zh", "中英文", "约 0.5 GiB     Apache-2.0; llama_cpp, 模板 model"),
    ):
        with pytest.raises(SystemExit):
            main(("model", "list", "--language", language))
        lines = capsys.readouterr().out.splitlines()
        at = next(n for n, line in enumerate(lines) if line.startswith(NAME))
        assert lines[at].split(None, 1)[1] == head
        assert told in lines[at + 1]


def test_without_a_terminal_nothing_is_fetched_and_the_command_is_said(program: Program, server: Server) -> None:
    if find_spec("chatbridge_llama_cpp") is None:
        pytest.skip("the backend is not installed")
    serve_guide(server)
    done = program("repl", "-m", NAME, "-p", "hello")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"chatbridge: {NAME} is not fetched yet (about 0.5 GiB): chatbridge model pull {NAME}\n"
    assert server.asked == []


def test_a_file_answers_without_a_bots_yaml(program: Program, tmp_path: Path) -> None:
    (tmp_path / "copied.gguf").write_bytes(guide_path().read_bytes())
    bundled = program("repl", "-p", "What is chatbridge?", "-n", "8")
    done = program("repl", "-m", "copied.gguf", "-p", "What is chatbridge?", "-n", "8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:3] == bundled.stdout.split()[:3] != []
    assert program("repl", "-m", "copied.gguf", "--resume", "-p", "And LoRA?", "-n", "8").returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals there")
def test_a_terminal_is_asked_before_anything_is_fetched(
    server: Server, environment: dict[str, str], tmp_path: Path, warm_python: str
) -> None:
    import pexpect

    pytest.importorskip("huggingface_hub")
    if find_spec("llama_cpp") is None:
        pytest.skip("the backend is not installed")
    serve_guide(server)
    command = ["-m", "chatbridge", "repl", "-m", NAME]

    def start() -> pexpect.spawn[str]:
        with default_signals():
            return pexpect.spawn(
                warm_python,
                command,
                env=environment,
                cwd=str(tmp_path),
                encoding="utf-8",
                timeout=60,
                dimensions=(40, 160),
            )

    repl = start()
    repl.expect(r"Fetch about 0.5 GiB of Qwen/Qwen2.5-0.5B-Instruct-GGUF \(Apache-2.0\)\? \[y/N\]:")
    repl.sendline("")
    repl.expect(f"chatbridge: {NAME} is not fetched yet")
    repl.expect(pexpect.EOF)
    repl.wait()
    assert (repl.exitstatus, server.asked) == (1, [])
    repl = start()
    repl.expect(r"\[y/N\]:")
    repl.sendline("y")
    repl.expect("is fetched")
    repl.expect(f"You are talking to {NAME}")
    repl.expect("you>")
    repl.sendeof()
    repl.expect(pexpect.EOF)
    repl.wait()
    assert repl.exitstatus == 0
    assert (tmp_path / "models" / NAME / catalogue()[NAME].run).is_file()
