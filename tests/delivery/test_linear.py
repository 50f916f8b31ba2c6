"""Rendering and splitting take a time that grows with the text, whatever the text is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import Limits, as_entities, as_markdown, utf16_length
from chatbridge.delivery.contents import split_answer
from chatbridge.delivery.rendered import Rendered
from chatbridge.delivery.streamed_message import LONG, MAX_RENDERINGS, StreamedMessage
from chatbridge.testing import FakeService
from chatbridge.types import Chunk

SERVICES = {
    "discord": Limits(4000, render=partial(as_markdown, mentions=False)),
    "telegram": Limits(4096, count=utf16_length, render=as_entities),
}
PIECES = (
    "**a ", "***a ", "_a ", "||a ", "~~a ", "*a_b ", "a*", "`a ", "``a", "```a ", "[", "![", "[a](", "[a](b", "[a](b) ",
    "**a** ", "`a` ", "<a", "https://a ", "@", "&#x", "\\", "> ", "- ", "1. ", "# a\n", "- a\n", "> a\n", "```\n",
    "a\n|-\n", "|a|b|\n|-|-|\n", ".", "..'", "。", "\n", " ", "\n \n", "a\n\n", "\n    a", "e\u0301", "\u0301",
    "\u200d", "👨\u200d", "🇩", "🇩🇪", "क्", "\u0600", "a", "汉",
)  # fmt: skip
SHORT, TIMES = 1_000, 8
"""A text, and one that is so many times as long. In quadratic time it would take the square of that."""


def cost(text: str, limits: Limits) -> float:
    """Seconds of work."""
    began = time.process_time()
    split_answer(text, limits)
    return time.process_time() - began


def is_linear(short: str, long: str, limits: Limits, ratio: float) -> bool:
    """Whether the long text costs less than so many times what the short one does, in one of two tries at least.

    The short one costs at least what can be measured.
    """
    most = ratio * max(0.002, min(cost(short, limits) for _ in range(2)))
    return any(cost(long, limits) < most for _ in range(2))


@pytest.mark.parametrize("limits", SERVICES.values(), ids=SERVICES.keys())
@pytest.mark.parametrize("piece", PIECES)
def test_a_longer_text_of_one_kind_takes_no_more_for_each_character(piece: str, limits: Limits) -> None:
    short = f"x{piece * (SHORT // len(piece))}"
    assert is_linear(short, f"x{short[1:] * TIMES}", limits, 3 * TIMES)


@pytest.mark.parametrize("limits", SERVICES.values(), ids=SERVICES.keys())
@settings(max_examples=5, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=2, max_size=4))
def test_nor_does_one_of_several_kinds(pieces: list[str], limits: Limits) -> None:
    piece = "".join(pieces)
    short = f"x{piece * (SHORT // len(piece))}"
    assert is_linear(short, f"x{short[1:] * TIMES}", limits, 4 * TIMES)


@pytest.mark.parametrize(
    "table",
    [
        f"|a|{'b' * 8000}|\n|-|-|\n" + "|a|b|\n" * 1500,
        f"|{'a|' * 300}\n|{'-|' * 300}\n" + "|a\n" * 100,
    ],
    ids=["a wide cell", "a wide row"],
)
@pytest.mark.parametrize("render", [as_markdown, as_entities])
def test_the_columns_of_a_table_make_it_no_longer_than_it_is(render: Callable[[str], Rendered], table: str) -> None:
    text = render(table).text
    assert len(text) < 5 * len(table)
    assert text.count("a") == table.count("a")


@pytest.mark.parametrize("mark", ["> ", "- ", "1. ", "> - "])
@pytest.mark.parametrize("render", [as_markdown, as_entities])
def test_what_is_nested_ever_so_deep_is_there(render: Callable[[str], Rendered], mark: str) -> None:
    assert "hello" in render(f"first\n\n{mark * 40}hello\n\nlast").text


async def test_all_previews_of_an_answer_together_render_a_multiple_of_its_length() -> None:
    rendered = 0

    def render(source: str) -> Rendered:
        nonlocal rendered
        rendered += len(source)
        return Rendered(source)

    limits = replace(SERVICES["discord"], render=render)
    streamed, chat = StreamedMessage(limits), FakeService(limits).chat("c")
    for _ in range(350):
        streamed.feed(Chunk("a word " * 15))
        for _ in range(12):
            await streamed.step(chat)
    length = len(streamed.source)
    assert length > 4 * LONG
    assert rendered <= MAX_RENDERINGS * length
