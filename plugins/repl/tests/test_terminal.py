"""The program in a real terminal: keys go in, and what is on the screen comes out."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals here", allow_module_level=True)
import pexpect
from small_terminal import Terminal

from chatbridge.testing import default_signals

PROMPT = "you>"  # without the blank behind it, which prompt_toolkit writes as a move of the cursor
Start = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path, warm_python: str) -> Iterator[Start]:
    """Start the program and wait for its prompt. `cold`: by a Python of its own; see `tests/warm/server.py`."""
    started: list[pexpect.spawn[str]] = []

    def spawn(*arguments: str, cold: bool = False, **variables: str) -> pexpect.spawn[str]:
        with default_signals():
            repl = pexpect.spawn(
                sys.executable if cold else warm_python,
                ["-m", "chatbridge", "repl", *arguments],
                env={**environment, **variables},
                cwd=str(tmp_path),
                encoding="utf-8",
                timeout=20,
                dimensions=(40, 120),
            )
        repl.delaybeforesend = None
        started.append(repl)
        repl.expect(PROMPT)
        return repl

    yield spawn
    for repl in started:
        repl.close(force=True)


def plain(text: str | None) -> str:
    """The text without what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text or "")


def leave(repl: pexpect.spawn[str]) -> int | None:
    repl.sendeof()
    repl.expect(pexpect.EOF)
    repl.wait()
    return repl.exitstatus


def test_a_talk(start: Start) -> None:
    repl = start(cold=True)
    assert "You are talking to told. /help lists the commands" in plain(repl.before)
    repl.send("hello\r")
    repl.expect("1: hello")
    repl.expect("5 tokens · 4.0 tokens/s · prompt 20 cached \\+ 10 new · first token after 0.25 s")
    repl.expect(PROMPT)
    repl.send("你好\r")
    repl.expect("3: 你好")
    repl.expect(PROMPT)
    assert leave(repl) == 0


def test_an_answer_streams_as_markdown(start: Start) -> None:
    repl = start()
    repl.send("say # Title\\n\\nsome **bold** words\\n\\n```\\ncode\\n```\\n- item\r")
    repl.expect("tokens/s")
    shown = repl.before or ""
    assert re.search(r"\x1b\[1mbold\x1b\[0m", shown)
    assert " • " in shown
    assert "**" not in shown.rsplit("- item", 1)[1]
    repl.send("slowly\r")
    repl.expect("and so on")  # before its end, which only a Ctrl-C brings
    repl.expect("so on and so")
    repl.sendintr()
    repl.expect("stopped · 5 tokens")
    repl.expect(PROMPT)


def test_ctrl_c_keeps_what_came_and_the_talk_goes_on(start: Start, tmp_path: Path) -> None:
    repl = start()
    repl.send("slowly please\r")
    repl.expect("slowly please and so on")
    repl.send("typed meanwhile")
    repl.sendintr()
    repl.expect("stopped")
    assert "typed" not in repl.before
    repl.expect(PROMPT)
    repl.send("/save saved.json\r")
    repl.expect("Saved")
    repl.expect(PROMPT)
    saved = (tmp_path / "saved.json").read_text("utf-8")
    assert "slowly please and so on" in saved
    assert '"partial": true' in saved
    repl.send("hello again\r")
    repl.expect("3: hello again")
    repl.expect(PROMPT)
    assert leave(repl) == 0


def test_a_file_is_replaced_only_where_the_person_says_so(start: Start, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    saved.write_text("mine", "utf-8")
    repl = start()
    repl.send("hello\r")
    repl.expect("1: hello")
    repl.expect(PROMPT)
    for answer in ("\r", "no\r", "\x03", "\x04"):
        repl.send("/save saved.json\r")
        repl.expect("is there already. Replace it\\?")
        repl.expect("y/N")
        repl.send(answer)
        repl.expect("Not saved")
        repl.expect(PROMPT)
        assert saved.read_text("utf-8") == "mine"
    repl.send("/save saved.json\r")
    repl.expect("y/N")
    repl.send("y\r")
    repl.expect("Saved to")
    repl.expect(PROMPT)
    assert "hello" in saved.read_text("utf-8")
    assert saved.stat().st_mode & 0o777 == 0o600
    assert leave(repl) == 0


def test_ctrl_c_stops_a_model_in_a_worker_and_leaves_it_alive(start: Start) -> None:
    repl = start("-m", "endless", "-n", "1000000")
    for _ in range(2):
        repl.send("hello\r")
        repl.expect("Loading endless|[a-z]{20}")
        repl.expect("[a-z ]{30}")
        repl.sendintr()  # the terminal sends it to the worker as well
        repl.expect(r"stopped · \d+ tokens")
        repl.expect(PROMPT)


def test_a_load_that_takes_too_long_can_be_given_up(start: Start) -> None:
    repl = start("-m", "stuck")
    repl.send("hello\r")
    repl.expect("the load has begun")  # before that, one Ctrl-C is enough
    repl.sendintr()
    repl.expect("Stopping; Ctrl-C once more gives this answer up.")
    repl.sendintr()
    repl.expect("Given up.")
    repl.expect(PROMPT)
    repl.send("/model told\r")
    repl.expect(PROMPT)
    repl.send("hello\r")
    repl.expect("2: hello")  # the message without an answer is kept


def test_an_error_is_one_line_and_the_talk_goes_on(start: Start) -> None:
    repl = start("-m", "broken")
    repl.send("hello\r")
    repl.expect("the file is gone")
    repl.expect(PROMPT)
    assert "Traceback" not in (repl.before or "")
    repl.send("/model told\r")
    repl.expect("comes from told")
    repl.send("fail\r")
    repl.expect("as I was told")
    repl.expect(PROMPT)
    repl.send("crash\r")
    repl.expect("mistake in the program")
    repl.expect("ZeroDivisionError")
    repl.expect(PROMPT)
    repl.send("hello\r")
    repl.expect(": hello")


def test_several_lines_make_one_message(start: Start) -> None:
    repl = start()
    repl.send("say one\x1b\rtwo\r")
    repl.expect("tokens/s")
    assert "one\r\ntwo\r\n5 " in plain(repl.before), "one message with two lines"
    repl.send("\x1b[200~say pasted\nlines\x1b[201~\r")
    repl.expect("pasted\r\nlines\r\n")


def test_ctrl_c_at_the_prompt(start: Start) -> None:
    repl = start()
    repl.send("wrong")
    repl.expect("wrong")
    repl.sendintr()
    repl.send("right\r")
    repl.expect("1: right")
    repl.expect(PROMPT)
    repl.sendintr()
    repl.expect("Ctrl-D leaves")
    repl.expect(PROMPT)
    repl.send("/exit\r")
    repl.expect(pexpect.EOF)
    repl.wait()
    assert repl.exitstatus == 0


def test_commands_and_their_completion(start: Start) -> None:
    repl = start()
    repl.send("/he")
    repl.expect("list the commands")
    repl.send("\t\r")
    repl.expect("go on with the last answer")
    repl.expect(PROMPT)
    repl.send("/model oth")
    repl.expect("obedient")  # what its backend is
    repl.send("\t\r")
    repl.expect("comes from other")
    repl.expect(PROMPT)
    repl.send("/set temp")
    repl.expect("0 always takes the likeliest token")
    repl.send("\t 0.5\r")
    repl.expect("temperature is 0.5")
    repl.expect(PROMPT)
    repl.send("/nosuch\r")
    repl.expect("There is no command /nosuch")
    repl.expect(PROMPT)


def test_chinese_where_the_locale_is(start: Start) -> None:
    repl = start(LANG="zh_CN.UTF-8")
    assert "正在与 told 对话。输入 /help 查看命令" in plain(repl.before)
    repl.send("hello\r")
    repl.expect("5 个 token")
    repl.expect(PROMPT)
    repl.send("/undo\r")
    repl.expect("已撤销：hello")


def test_history_and_conversations_outlive_the_program(start: Start) -> None:
    repl = start()
    repl.send("remember me\r")
    repl.expect("1: remember me")
    repl.expect(PROMPT)
    assert leave(repl) == 0
    repl = start("--resume")
    assert "Going on with conversation c1: remember me" in plain(repl.before)
    repl.send("\x1b[A")
    repl.expect("remember me")
    repl.send("\r")
    repl.expect("3: remember me")


@pytest.mark.parametrize(
    ("arguments", "variables"), [(("--color", "never"), {}), ((), {"NO_COLOR": "1"})], ids=["never", "NO_COLOR"]
)
def test_without_colours(start: Start, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    repl = start(*arguments, **variables)
    repl.send("say # Title\\n`code` [link](http://example.org)\r")
    repl.expect("5 tokens")
    colours = re.findall(r"\x1b\[[\d;]*\b(?:3\d|4[0-8]|9\d)[\d;]*m", repl.before or "")
    assert colours == []


def test_a_changed_file_is_followed_and_a_broken_one_is_told(start: Start, tmp_path: Path) -> None:
    repl = start()
    (tmp_path / "bots.yaml").write_text("modles: {}")
    repl.expect("the old settings stay")
    repl.expect("modles")
    repl.expect(PROMPT)
    repl.send("hello\r")
    repl.expect("1: hello")


def test_a_message_on_the_command_line_is_shown_as_markdown(environment: dict[str, str], tmp_path: Path) -> None:
    output, status = pexpect.run(
        f"{sys.executable} -m chatbridge repl -p 'say **bold** words'",
        env=environment,
        cwd=str(tmp_path),
        encoding="utf-8",
        withexitstatus=True,
    )
    terminal = Terminal()
    terminal.write(output)
    assert terminal.shown == ["bold words"], "neither the wait nor what it cost is left"
    assert status == 0


@pytest.mark.parametrize("ignored", [False, True], ids=["as usual", "started by what ignores it"])
def test_ctrl_c_while_waiting_for_one_message_exits_130(
    environment: dict[str, str], tmp_path: Path, ignored: bool
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        repl = pexpect.spawn(
            sys.executable,
            ["-m", "chatbridge", "repl", "-p", "slowly"],
            env=environment,
            cwd=str(tmp_path),
            encoding="utf-8",
            timeout=20,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    repl.expect("and so on")
    repl.sendintr()
    repl.expect(pexpect.EOF)
    repl.wait()
    assert repl.exitstatus == 130
    assert "\x1b[?25h" in (repl.before or ""), "the cursor is back"
