"""The program in pipes and for a single message: what it prints, and how it exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from chatbridge_repl.texts import terminal_language
from click.testing import CliRunner

from chatbridge.cli.repl import command
from chatbridge.testing import default_signals

REPL = (sys.executable, "-m", "chatbridge", "repl")
Repl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def repl(environment: dict[str, str], tmp_path: Path, warm_python: str) -> Repl:
    """Run the program: `repl("-p", "hi")`, `repl(stdin="hi\\n")`."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm_python, *REPL[1:], *arguments],
            input=stdin,
            env={**environment, **variables},
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )

    return run


def test_every_line_of_a_pipe_is_answered(repl: Repl) -> None:
    done = repl(stdin="hello\n你好\n")
    assert done.stdout == "1: hello\n3: 你好\n"
    assert (done.stderr, done.returncode) == ("", 0)


def test_blank_lines_are_neither_asked_nor_answered(repl: Repl) -> None:
    done = repl(stdin="\n  \nsay one\\n\\n\\n  two \\n\\n\r\nlast, without an end")
    assert done.stdout == "one\n  two\n3: last, without an end\n"


def test_commands_work_in_a_pipe(repl: Repl) -> None:
    done = repl(stdin="/set max_tokens 2\nsay one two three\n/undo\n/model\n")
    assert done.stdout.splitlines()[1] == "one two"
    assert "told" in done.stdout.splitlines()[3]
    assert done.returncode == 0


@pytest.mark.parametrize("arguments", [(), ("-p", "/save x.json")])
def test_files_are_written_for_a_person_at_a_terminal_only(
    repl: Repl, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = repl(*arguments, stdin="hello\n/save x.json\n/load bots.yaml\n")
    assert done.returncode == 1
    assert "/save works in a terminal only" in done.stderr
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(("redirected", "told"), [("<&-", "it is closed"), ("</dev/zero", "a line of more than")])
def test_an_input_that_can_not_be_read_is_told_in_a_line(
    environment: dict[str, str], tmp_path: Path, redirected: str, told: str
) -> None:
    command = f'exec "$0" -m chatbridge repl {redirected}'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"chatbridge: stdin: {told}")
    assert done.stderr.count("\n") == 1


def test_one_message_is_answered_as_it_is(repl: Repl) -> None:
    done = repl("-p", "say one\\n\\n    two\\n")
    assert (done.stdout, done.stderr, done.returncode) == ("one\n\n    two\n", "", 0)


def test_what_a_pipe_gives_comes_with_the_one_message_as_a_file(repl: Repl) -> None:
    done = repl("-p", "say it", stdin="first\nsecond\n")
    assert (done.stdout, done.returncode) == ("it\n\n[stdin]\nfirst\nsecond\n", 0)
    assert repl("-p", "say it", stdin=" \n").stdout == "it\n"
    assert repl("-p", "/model", stdin="a command reads none").stdout == repl("-p", "/model").stdout != ""


def test_a_pipe_that_gives_more_than_anybody_asks_about_is_refused(repl: Repl) -> None:
    done = repl("-p", "say it", stdin="x" * (16 << 20) + "x")
    assert (done.stdout, done.returncode) == ("", 1)
    assert "the pipe gives more than 16 MiB" in done.stderr


def test_words_that_leave_a_terminal_end_a_pipe_as_well(repl: Repl) -> None:
    for word in ("/exit", "/quit", " /bye "):
        done = repl(stdin=f"say one\n{word}\nsay two\n")
        assert (done.stdout, done.stderr, done.returncode) == ("one\n", "", 0)


def test_what_could_steer_a_terminal_is_left_out(repl: Repl) -> None:
    assert repl("-p", "say red \x1b[31m\x07\x9b1m").stdout == "red [31m1m\n"


def test_a_line_that_fails_is_told_and_the_next_is_answered(repl: Repl) -> None:
    done = repl(stdin="fail now\n/nosuch\nhello\n")
    first, last = done.stdout.splitlines()
    assert first.endswith("fail now"), "what came before the failure"
    assert last.endswith("hello")
    errors = done.stderr.splitlines()
    assert errors[0] == "chatbridge: as I was told"
    assert "/nosuch" in errors[1]
    assert errors[2:] == ["chatbridge: 2 of 3 messages failed"]
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", [("-p", "fail now"), ("-p", "hi", "-m", "broken")])
def test_one_message_that_fails_exits_1_with_one_line(repl: Repl, arguments: tuple[str, ...]) -> None:
    done = repl(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("chatbridge: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-m", "gide"), "did you mean 'guide'?"),
        (("-t", "alpacca"), "did you mean 'alpaca'?"),
        (("-n", "0"), "0 is not in the range"),
        (("-c", "none.yaml"), "none.yaml"),
        (("--color", "blue"), "blue"),
        (("--nosuch",), "--nosuch"),
        (("--system", " "), "there is no text"),
    ],
)
def test_a_wrong_command_line_exits_2(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "APPDATA": str(tmp_path)}
    with chdir(tmp_path):
        done = CliRunner().invoke(command, [*arguments, "-p", "hi"], env=home)
    assert done.exit_code == 2
    assert says in done.output


def test_options_are_settings_of_this_conversation(repl: Repl) -> None:
    options = ("--system", "Be brief.", "-n", "2", "-m", "other", "-t", "alpaca-lora")
    said = repl(*options, stdin="system\nsay one two three\n/model\n/template\n").stdout.splitlines()
    assert said[:2] == ["Be brief.", "one two"]
    assert "other" in said[2].split(".")[0]
    assert "alpaca-lora" in said[3].split(".")[0]
    (values,) = repl("--seed", "7", "--temperature", "0.5", "--no-color", stdin="/set\n").stdout.splitlines()
    assert {"temperature 0.5", "seed 7"} <= set(values.partition("Now: ")[2].split(", "))
    assert repl("--temperature", "99", "-p", "x").stderr == (
        "chatbridge: temperature can't be '99.0': it has to be at most 10.\n"
    )


def test_resume_goes_on_with_what_was_said(repl: Repl) -> None:
    repl("-p", "first", "--system", "Be brief.")
    began = repl(stdin="second\nsystem\n/branch\n").stdout.splitlines()
    assert began[0] == "1: second", "a new conversation"
    assert began[1] != "Be brief.", "without the settings of the one before"
    assert "- c1: first" in began
    assert repl("--resume", "-p", "third").stdout == "5: third\n"
    done = repl("--resume", "c1", stdin="fourth\nsystem\n")
    assert done.stdout == "3: fourth\nBe brief.\n", "its own settings are kept"
    assert "first" in done.stderr


def test_a_conversation_that_is_not_there_cannot_be_resumed(repl: Repl) -> None:
    done = repl("--resume", "c7", "-p", "hi")
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr == "chatbridge: there is no conversation 7\n"


def test_resuming_with_nothing_said_yet_begins(repl: Repl) -> None:
    done = repl("--resume", "-p", "hi")
    assert (done.stdout, done.returncode) == ("1: hi\n", 0)


def test_colours_are_there_only_where_they_are_forced(repl: Repl) -> None:
    assert repl("-p", "say **bold**", FORCE_COLOR="1").stdout == "**bold**\n"
    forced = repl("-p", "say **bold**", "--color", "always", NO_COLOR="1", TERM="dumb").stdout
    assert forced == "\x1b[1mbold\x1b[0m\n"


def test_thoughts_come_first_where_they_are_shown(repl: Repl) -> None:
    done = repl(stdin="think so\n/set thinking show\nthink so\n")
    assert done.stdout.splitlines()[0] == "so"
    assert done.stdout.splitlines()[2:] == ["hm hm", "so"]


def test_the_bot_of_bots_yaml_is_used_with_its_settings(repl: Repl, tmp_path: Path) -> None:
    with (tmp_path / "bots.yaml").open("a") as file:
        file.write(
            "bots:\n  here:\n    frontend: repl\n    commands: [/set max_tokens 1]\n"
            "    defaults: {system: You are here.}\n"
        )
    assert repl("-p", "say one two").stdout == "one\n"
    assert repl("-n", "3", "-p", "system").stdout == "You are here.\n"


def test_another_file_can_be_named(repl: Repl, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("models: {mine: {backend: obedient, template: alpaca}}")
    assert "mine" in repl("-c", "mine.yaml", "-p", "/model").stdout
    (tmp_path / "mine.yaml").write_text("modles: {}")
    done = repl("-c", "mine.yaml", "-p", "hi")
    assert done.returncode == 1
    assert "mine.yaml:1:1" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to whole consoles only")
def test_ctrl_c_exits_130_and_keeps_what_came(repl: Repl, environment: dict[str, str], tmp_path: Path) -> None:
    with (
        default_signals(),
        subprocess.Popen(
            [*REPL, "-p", "slowly now"], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        came = b""
        while b"and so on" not in came:
            came += os.read(process.stdout.fileno(), 100)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b""
    assert "slowly now and so on" in repl("--resume", "-p", "/branch").stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to whole consoles only")
def test_ctrl_c_ends_the_wait_for_a_line(environment: dict[str, str], tmp_path: Path) -> None:
    with (
        default_signals(),
        subprocess.Popen(
            REPL, env=environment, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"1: hello\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_reader_that_went_away_ends_the_program(environment: dict[str, str], tmp_path: Path) -> None:
    with (
        default_signals(),
        subprocess.Popen(
            REPL, env=environment, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"1: hello\n"
        process.stdout.close()
        process.stdin.write(b"hello\nhello\n")
        process.stdin.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW.UTF-8", "LC_ALL": ""}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_AT.UTF-8"}, "en"),
    ],
)
def test_the_language_is_the_terminals(variables: dict[str, str], language: str) -> None:
    assert terminal_language(variables) == language
