"""How an answer begins: without lines of nothing, but with the blanks that indent code."""

from __future__ import annotations

import io

import pytest
from chatbridge_repl.plain import PlainStream
from chatbridge_repl.screen import ScreenStream
from chatbridge_repl.waiting import Waiting
from rich.console import Console

from chatbridge import Chunk

ANSWERS = [
    (["Hello"], "Hello"),
    ([" Hello"], "Hello"),
    (["\n", " \n", " Hello\n"], "Hello"),
    (["\n\n  ", "  one\n    two"], "    one\n    two"),
    ([" ", " ", " ", " one"], "    one"),
    (["\tone"], "\tone"),
]


@pytest.mark.parametrize(("pieces", "shown"), ANSWERS)
def test_a_pipe_has_the_blanks_that_indent_code(pieces: list[str], shown: str) -> None:
    out = io.StringIO()
    stream = PlainStream(out, Waiting(io.StringIO(), "en"), squeeze=False)
    for piece in pieces:
        stream.feed(Chunk(piece))
    stream.close()
    assert out.getvalue() == f"{shown}\n"


def test_a_pipe_has_them_behind_thoughts_too() -> None:
    out = io.StringIO()
    stream = PlainStream(out, Waiting(io.StringIO(), "en"), squeeze=False)
    stream.feed(Chunk("hm\n\n", thinking=True))
    stream.feed(Chunk("    one"))
    stream.close()
    assert out.getvalue() == "hm\n    one\n"


@pytest.mark.parametrize(("pieces", "shown"), ANSWERS)
async def test_a_terminal_shows_indented_code_as_code(pieces: list[str], shown: str) -> None:
    file = io.StringIO()
    stream = ScreenStream(Console(file=file, width=30, color_system=None), Waiting(io.StringIO(), "en"))
    for piece in pieces:
        stream.feed(Chunk(piece))
    stream.close()
    lines = [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]
    code = shown.startswith(("    ", "\t"))
    assert lines == [(" " if code else "") + line.strip() for line in shown.split("\n")]
