"""What is on the screen around the answers: thoughts, notices, what an answer cost, and the wait for it."""

from __future__ import annotations

import io
from contextlib import suppress

import pytest
from chatbridge_repl.screen import Screen, status_line
from chatbridge_repl.waiting import Waiting
from rich.console import Console
from small_terminal import Terminal

from chatbridge import Chunk, Finish, Reply, Usage

USAGE = Usage(prompt=134, cached=120, generated=42, first_token_seconds=0.21, seconds=1.51)
DONE = Chunk(finish=Finish("end", Reply("x"), USAGE))


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def screen(terminal: Terminal) -> Screen:
    console = Console(file=terminal, width=60, height=20, highlight=False)
    return Screen(console, Waiting(terminal, "en"), "en")


async def test_an_answer_is_followed_by_what_it_cost(screen: Screen, terminal: Terminal) -> None:
    with screen.answering() as stream:
        stream.feed(Chunk("  Hello"))
        stream.feed(Chunk(" *you*"))
        stream.feed(DONE)
    assert terminal.shown[0] == "Hello you"
    assert " ".join(terminal.shown[1:]) == (
        "42 tokens · 31.5 tokens/s · prompt 120 cached + 14 new · first token after 0.21 s"
    )


async def test_an_answer_that_fails_has_no_cost(screen: Screen, terminal: Terminal) -> None:
    with suppress(ZeroDivisionError), screen.answering() as stream:
        stream.feed(Chunk("so far"))
        raise ZeroDivisionError
    assert terminal.shown == ["so far"]


async def test_thoughts_stand_apart(screen: Screen, terminal: Terminal) -> None:
    with screen.answering() as stream:
        stream.feed(Chunk("let me see", thinking=True))
        stream.feed(Chunk("", thinking=False))
        stream.feed(Chunk("\nIt is 4."))
    assert terminal.shown == ["let me see", "", "It is 4."]
    assert "\x1b[2;3mlet me see" in "".join(terminal.writes)


async def test_a_command_keeps_its_lines(screen: Screen, terminal: Terminal) -> None:
    screen.answer("Commands:\n- `/help`: [bold]list[/bold] :smile:\n- /x\x1b[31m")
    assert terminal.shown == ["Commands:", "", " • /help: [bold]list[/bold] :smile:", " • /x[31m"]


def test_lines_beside_the_talk_are_shown_as_they_are(screen: Screen, terminal: Terminal) -> None:
    screen.notice("[red]no markup[/red] :smile: \x1b]0;title\x07")
    screen.error("*no* Markdown")
    assert terminal.shown == ["[red]no markup[/red] :smile: ]0;title", "*no* Markdown"]


@pytest.mark.parametrize(
    ("reason", "language", "begins"),
    [
        ("end", "en", "42 tokens"),
        ("stop", "en", "42 tokens"),
        ("cancelled", "zh", "已停止"),
        ("length", "en", "length limit"),
    ],
)
def test_an_answer_that_ended_early_says_so(reason: str, language: str, begins: str) -> None:
    assert status_line(Finish(reason, Reply("x"), USAGE), language).startswith(begins)  # type: ignore[arg-type]


def test_a_speed_that_is_not_known_is_not_zero() -> None:
    assert "· – tokens/s" in status_line(Finish("end", Reply("x"), Usage(prompt=3, generated=1)), "en")


def test_a_load_shows_how_far_it_is_and_leaves_nothing(terminal: Terminal) -> None:
    waiting = Waiting(terminal, "en")
    waiting.start()
    waiting.loading("guide", 0.0, "reading [weights]")
    waiting.loading("guide", 0.42, "reading [weights]")
    waiting.stop()
    waiting.stop()
    assert "Loading guide: reading [weights]" in "".join(terminal.writes)
    assert "42%" in "".join(terminal.writes)
    assert terminal.shown == []


def test_no_terminal_no_wait() -> None:
    file = io.StringIO()
    waiting = Waiting(file, "en")
    waiting.start()
    waiting.loading("guide", 0.5, "reading")
    waiting.stop()
    assert file.getvalue() == ""
