"""The command line as a whole: what it imports, its help, its exit codes, and each of the smaller commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from chatbridge import __version__
from chatbridge.cli import COMMANDS, cli, main
from chatbridge.testing import fixtures

from .engines import leave_out_engines

Run = Callable[..., subprocess.CompletedProcess[str]]
Install = Callable[..., Path]

GOOD = "models: {g: {backend: numpy}}\nbots: {t: {frontend: repl}}\n"
BAD = "modles: {}\ndefaults: {reply_to: sometimes}\n"


def call(*arguments: str) -> int | str | None:
    """The command line in this process; how it ends."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


# --- what it imports -----------------------------------------------------------------------------------------------

HEAVY = {"pydantic", "numpy", "yaml", "jinja2", "regex", "gguf", "torch", "rich", "prompt_toolkit"}
READS = ("pydantic", "pydantic_core", "yaml")
"""What it takes to read bots.yaml."""

PLANS = (*READS, "numpy", "gguf")
"""What it takes to plan a model in NumPy."""

LISTING = """
import sys
from chatbridge.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("command", "may"),
    [
        (["--help"], ()),
        (["--version"], ()),
        (["run", "--help"], ()),
        (["repl", "--help"], ()),
        (["doctor", "--help"], ()),
        (["templates", "show", "--help"], ()),
        (["plugins"], READS),
        (["check"], PLANS),
        (["schema"], READS),
        (["templates"], READS),
        (["model", "--help"], ()),
        (["model", "inspect", "--help"], ()),
        (["model", "inspect", str(fixtures() / "llama" / "hf")], READS),
        (["model", "plan", "--help"], ()),
        (["model", "plan", "llama-7b", "--devices", "cpu-64G", "--backend", "numpy"], PLANS),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_imports_nothing_heavier_than_it_needs(
    tmp_path: Path, command: list[str], may: tuple[str, ...]
) -> None:
    (tmp_path / "bots.yaml").write_text(GOOD, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LISTING, *command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(done.stderr.split()) & HEAVY <= set(may)


# --- help ----------------------------------------------------------------------------------------------------------


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    for name, help_line in COMMANDS.items():
        assert f" {name} {help_line}" in told
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.help


@pytest.mark.parametrize(
    "command",
    [*([name] for name in COMMANDS), ["templates", "show"], ["model", "inspect"], ["model", "plan"]],
    ids=" ".join,
)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert call(*command, "--help") == 0
    told = capsys.readouterr().out
    assert told.startswith(f"Usage: chatbridge {' '.join(command)}")
    options = re.findall(r"(?m)^  (-\S.*)$", told)
    assert all(re.search(r"\S  +\S", option) or option.endswith("[auto|always|never]") for option in options), (
        "each option says what it does"
    )
    assert call(*command, "-h") == 0


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"chatbridge {__version__}\n"


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chek"], "Error: No such command 'chek'; did you mean 'check'?"),
        (["model", "plna"], "Error: No such command 'plna'; did you mean 'plan'?"),
        (["xyz"], "Error: No such command 'xyz'."),
        (["check", "--what"], "Error: No such option"),
        (["check", "a", "b"], "Error: Got unexpected extra argument"),
        (["templates", "show"], "Error: Missing argument 'NAME'"),
        (["templates", "show", "alpaca", "--color", "perhaps"], "Error: Invalid value for '--color'"),
        (["repl", "-n", "0"], "Error: Invalid value for '-n'"),
        (["repl", "-c", "nowhere.yaml"], "Error: Invalid value for '-c'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert call(*arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["run"],
            "chatbridge: bots.yaml:1:1: this file can't be read: No such file or directory; name another one, "
            "or write one by `chatbridge init`\n",
        ),
        (["run", "-c", "other.yaml"], "chatbridge: other.yaml:1:1: this file can't be read"),
        (["templates", "-c", "other.yaml"], "chatbridge: other.yaml:1:1: this file can't be read"),
        (["templates", "show", "alpacca"], "chatbridge: there is no template 'alpacca'; did you mean 'alpaca'? `chatb"),
        (["templates", "show", "zzz"], "chatbridge: there is no template 'zzz'; `chatbridge templates` lists them\n"),
        (["templates", "show", "alpaca", "-m", "x"], "chatbridge: there is no model 'x'; known: guide\n"),
        (["templates", "show", "model"], "chatbridge: the template 'model' is the model's own: say which one with --m"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_of_ours_end_with_1_and_show_no_traceback(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == (78 if arguments[0] == "run" else 1)
    captured = capsys.readouterr()
    assert captured.err.startswith(told)
    assert captured.out == ""


def test_a_terminal_without_unicode_still_gets_everything(chatbridge: Run, tmp_path: Path) -> None:
    leave_out_engines(tmp_path / "site")
    (tmp_path / "bots.yaml").write_text("store: 'x'\n世界: 1\n", encoding="utf-8")
    for command, told in (("check", r"\u4e16\u754c"), ("doctor", r"\u2192")):
        done = chatbridge(command, cold=True, PYTHONIOENCODING="latin-1")
        assert "Traceback" not in done.stderr
        assert told in done.stdout


# --- check ---------------------------------------------------------------------------------------------------------


def test_check_says_that_a_file_is_good(chatbridge: Run, tmp_path: Path) -> None:
    (tmp_path / "bots.yaml").write_text(GOOD, encoding="utf-8")
    done = chatbridge("check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "bots.yaml: good; 1 model, 1 bot\n", "")


def test_check_says_which_models_are_unloaded_while_nobody_asks(chatbridge: Run, tmp_path: Path) -> None:
    text = (
        "models: {a: {backend: numpy, idle_minutes: 30}, b: {backend: numpy, idle_minutes: 0}, c: {backend: numpy}}\n"
    )
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    assert chatbridge("check").stdout.splitlines() == [
        "bots.yaml: the model a is unloaded after 30 min in which nobody asks; what it has read of conversations stays "
        f"in {tmp_path / 'idle-states'}",
        "bots.yaml: good; 3 models, 0 bots; a bot is written under `bots`, and `chatbridge repl` talks without one",
    ]


def test_check_takes_its_file_as_other_commands_do(chatbridge: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("models: {", "utf-8")
    assert chatbridge("check", "-c", "mine.yaml").stdout == chatbridge("check", "mine.yaml").stdout != ""
    assert "give one file" in chatbridge("check", "-c", "mine.yaml", "mine.yaml").stderr


def test_check_lists_every_complaint(chatbridge: Run, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(BAD, encoding="utf-8")
    done = chatbridge("check", "other.yaml")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "other.yaml:1:1: there is no key 'modles' at the top of the file; did you mean 'models'?",
        "other.yaml:2:22: `reply_to` has to be 'mentions', 'always' or 'never'",
    ]
    assert done.stderr == "2 mistakes in other.yaml\n"


def test_check_of_a_file_that_is_not_there(chatbridge: Run) -> None:
    done = chatbridge("check")
    assert done.returncode == 1
    assert done.stdout.startswith("bots.yaml:1:1: this file can't be read: ")
    assert done.stderr == "1 mistake in bots.yaml\n"


def test_check_reads_variables(chatbridge: Run, tmp_path: Path) -> None:
    (tmp_path / "bots.yaml").write_text(GOOD + "defaults: {history: '${HISTORY}'}\n", encoding="utf-8")
    assert "variable HISTORY is not set" in chatbridge("check").stdout
    assert chatbridge("check", HISTORY="false").returncode == 0


# --- schema --------------------------------------------------------------------------------------------------------


def test_schema_has_the_keys_of_installed_plugins(chatbridge: Run, install: Install) -> None:
    install(
        "acme",
        """
        from chatbridge import hookimpl

        async def run(options, bot): ...

        @hookimpl
        def register_frontends():
            from chatbridge import FrontendType, Options, Secret
            class AcmeOptions(Options):
                password: Secret
            return [FrontendType("acme", AcmeOptions, "acme's own rooms, 聊天室", run)]
        """,
    )
    done = chatbridge("schema")
    assert (done.returncode, done.stderr) == (0, "")
    entries = json.loads(done.stdout)["properties"]["bots"]["anyOf"][0]["additionalProperties"]["anyOf"]
    found = {entry["properties"]["frontend"]["const"]: entry["properties"].keys() for entry in entries}
    assert {"password", "password_file", "channels"} <= found["acme"]
    assert "password" not in found["repl"]
    assert '"description": "acme\'s own rooms, 聊天室"' in done.stdout, "people read it, too"
