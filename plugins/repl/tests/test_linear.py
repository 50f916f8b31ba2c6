"""What is shown takes a time that grows with the text, whatever a model says."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable

import pytest
from chatbridge_repl.plain import PlainStream
from chatbridge_repl.rendering import rendered
from chatbridge_repl.waiting import Waiting
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from chatbridge import Chunk, printable

PIECES = (
    "a", " ", "\t", "\n", " \n", "\n \n", "**a ", "_a ", "`a ", "```\n", "[", "[a](b", "> ", "- a\n", "# a\n",
    "|a|b|\n|-|-|\n", "<a", "</kbd>", "&#x", "e\u0301", "👨\u200d", "汉", "\u200b",
)  # fmt: skip
SHORT, TIMES = 1_000, 8


def plain(text: str) -> str:
    """What a pipe shows of an answer, without blank lines."""
    out = io.StringIO()
    stream = PlainStream(out, Waiting(io.StringIO(), "en"), squeeze=True)
    stream.feed(Chunk(text))
    stream.close()
    return out.getvalue()


def on_terminal(text: str) -> None:
    """What a terminal shows of it."""
    rendered(Console(file=io.StringIO(), width=80), text)


def cost(work: Callable[[str], object], text: str) -> float:
    """Seconds of work, the least of two tries, and at least what can be measured."""

    def once() -> float:
        began = time.process_time()
        work(text)
        return time.process_time() - began

    return max(0.002, min(once() for _ in range(2)))


@pytest.mark.parametrize("work", [on_terminal, plain])
@pytest.mark.parametrize("piece", PIECES)
def test_a_longer_answer_takes_no_more_for_each_character(piece: str, work: Callable[[str], object]) -> None:
    times = (SHORT if work is on_terminal else 16 * SHORT) // len(piece)
    short, long = (f"x{piece * count}x" for count in (times, times * TIMES))
    assert cost(work, long) < 3 * TIMES * cost(work, short)


@given(st.text(st.sampled_from("a \t\n\r\u3000"), max_size=30))
def test_blank_lines_are_left_out(text: str) -> None:
    shown = plain(f"x{text}x").removesuffix("\n")
    assert shown == re.sub(r"\s*\n", "\n", printable(f"x{text}x"))
