"""Previews show no marks that go away again, and the last message is what the whole answer would be."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatbridge import Limits, MessageContent, as_entities, as_markdown, utf16_length
from chatbridge.delivery.contents import split_answer, split_preview
from chatbridge.delivery.growing import settled
from chatbridge.delivery.streamed_message import PLACEHOLDER, StreamedMessage
from chatbridge.testing.telegram.text import checked_entities
from chatbridge.types import Chunk

from . import nasty

LIMITS = {
    "telegram": Limits(4096, utf16_length, as_entities, max_entities=100, max_messages=50),
    "discord": Limits(2000, render=as_markdown, max_messages=50),
}


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("a **bo", "a **bo**"),
        ("a **bo*", "a **bo**"),
        ("a *b **c", "a *b **c***"),
        ("~~x", "~~x~~"),
        ("||s", "||s||"),
        ("a `co", "a `co`"),
        ("**`co", "**`co`**"),
        ("text `a **b", "text `a **b`"),
        ("\\(a_1", "\\(a_1\\)"),
        ("> **q\n> w", "> **q\n> w**"),
        ("| a |\n|-|\n| **b", "| a |\n|-|\n| **b**"),
        ("2*x", "2*x"),
        ("**a** and `b`", "**a** and `b`"),
    ],
)
def test_what_is_open_is_closed(source: str, shown: str) -> None:
    assert settled(source) == shown


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("see [te", "see"),
        ("see [te](https://x", "see"),
        ("see [te](https://x 'ti", "see"),
        ("see ![te]", "see"),
        ("see <https://x", "see"),
        ("a &am", "a"),
        ("word\\", "word"),
        ("word **", "word"),
    ],
)
def test_half_of_something_is_held_back(source: str, shown: str) -> None:
    assert settled(source) == shown


@pytest.mark.parametrize(
    "end", ["-", "- ", "--", "=", "1.", "* ", ">", "#", "```", "```py", "~~~", "| a | b |", "|", "- [", "$$"]
)
def test_a_line_that_may_become_another_block_is_held_back(end: str) -> None:
    assert settled(f"Here:\n{end}") == "Here:"
    assert settled(f"Here:\n\n{end}") == "Here:"


def test_code_is_shown_as_it_comes_but_for_half_a_fence() -> None:
    assert settled("```py\n# a **b [c") == "```py\n# a **b [c"
    assert settled("````py\nx\n``") == "````py\nx"
    assert settled("```py\nx\n```") == "```py\nx\n```"


def test_nothing_is_shown_of_nothing() -> None:
    assert split_preview("**", LIMITS["discord"]) == ()
    assert split_preview("", LIMITS["discord"]) == ()


class Recorder:
    """A chat that keeps what it was given last."""

    def __init__(self) -> None:
        self.shown: list[MessageContent] = []

    async def send(self, content: MessageContent, *, reply_to: str | None, nonce: str) -> str:
        self.shown.append(content)
        return str(len(self.shown) - 1)

    async def edit(self, message_id: str, content: MessageContent) -> None:
        self.shown[int(message_id)] = content

    async def delete(self, message_id: str) -> None:
        raise NotImplementedError

    async def typing(self) -> None:
        raise NotImplementedError

    async def draft(self, draft_id: int, content: MessageContent) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("service", LIMITS)
@settings(deadline=None)
@given(source=nasty.sources, sizes=st.lists(st.integers(1, 7), min_size=1, max_size=20))
@example(source="    a\n      b", sizes=[3])
@example(source="\n  \n\tcode", sizes=[1])
async def test_an_answer_in_pieces_ends_as_the_whole_one(service: str, source: str, sizes: list[int]) -> None:
    limits, chat = LIMITS[service], Recorder()
    streamed = StreamedMessage(limits)
    at = turn = 0
    while at < len(source):
        size = sizes[turn % len(sizes)]
        streamed.feed(Chunk(source[at : at + size]))
        at, turn = at + size, turn + 1
        while await streamed.step(chat):
            pass
        for content in chat.shown:
            assert content.text.strip()
            assert limits.count(content.text) <= limits.length
            checked_entities([{"offset": one.offset, "length": one.length} for one in content.entities], content.text)
    whole = split_answer(source, limits)
    assert split_answer(streamed.source, limits) == whole
    assert len(chat.shown) <= max(1, len(whole))
    assert all(content.preview or content.text == PLACEHOLDER for content in chat.shown)


@pytest.mark.parametrize(
    "piece", ["[a\n", "<a", "**a ", "`a ``b ", "- \n", "| a |\n", "a\n|-\n", "\\(a ", "||a ", "> - ", "&a"]
)
def test_previews_take_a_time_that_grows_with_the_text(piece: str) -> None:
    def cost(times: int) -> float:
        began = time.process_time()
        settled("x" + piece * times)
        return time.process_time() - began

    assert min(cost(8_000 // len(piece)) for _ in range(2)) < 24 * max(
        0.004, min(cost(1_000 // len(piece)) for _ in range(2))
    )
