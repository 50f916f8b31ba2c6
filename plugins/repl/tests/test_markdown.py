"""Markdown that comes in pieces: in the end the screen shows what it would have shown all at once."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from chatbridge_repl.blocks import Blocks
from chatbridge_repl.markdown import INTERVAL, MarkdownWriter, rendered
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from small_terminal import Terminal

from chatbridge import MarkdownNode, parse_markdown, split_markdown

LINES = [
    "", "", "", "A line of words.", "another line", "中文的一行，够长的话会折行。", "**bold** and `code`", "# Heading",
    "## 标题", "#", "---", "===", "- item", "- 第二项", "  - nested", "  more of it", "* other list", "1. one",
    "2. two", "7) seven", "> quote", "> - in it", "```", "```python", "def f(x): return x", "    indented", "~~~",
    "a | b",
    "---|---", "| 名 | 数 |", "|:-|-:|", "| 甲 | 1 |", "<div>", "</div>", "</kbd>", "<!-- note", "-->", "***", "\\", "[a](http://b.c)",
    "| one", "-", "+", "&amp;", "`", "``` x", "\t", "![i](u.png)", "\tcode",
    "$$", "\\[", "x = 1 \\]", "[a]: http://b.c", "- [ ] to do", "||hidden||", "||", "**重点：**后面", "$a_1$",
]  # fmt: skip

markdown = st.lists(st.sampled_from(LINES), max_size=14).map("\n".join)


class Loop(asyncio.AbstractEventLoop):
    """An event loop whose time a test moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None], asyncio.TimerHandle]] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.now + delay, callback, args, self)
        self.due.append((self.now + delay, callback, handle))
        return handle

    def pass_time(self, seconds: float) -> int:
        """How many calls came due."""
        self.now += seconds
        due = [one for one in self.due if one[0] <= self.now]
        self.due = [one for one in self.due if one[0] > self.now]
        for _, callback, handle in due:
            if not handle.cancelled():
                callback()
        return len(due)


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(edges)]


def whole(text: str, width: int = 40) -> list[str]:
    """What is on a screen after all of the text was written at once."""
    terminal = Terminal()
    writer = MarkdownWriter(Console(file=terminal, width=width, height=10), loop=Loop())
    writer.feed(text)
    writer.close()
    return terminal.shown


@settings(deadline=None)
@given(text=markdown, cuts=st.lists(st.integers(0, 400), max_size=20))
@example(text="para\n#foo", cuts=[6])
@example(text="a | b\n---|---\n1 | 2", cuts=[6, 7, 8])
@example(text="Title\n---\ntext", cuts=[6, 7, 8])
def test_blocks_do_not_depend_on_how_the_text_came(text: str, cuts: list[int]) -> None:
    blocks = Blocks()
    finished = [block for piece in pieces(text, cuts) for block in blocks.feed(piece)]
    assert [*finished, *split_markdown(blocks.rest)] == split_markdown(text)
    assert "".join(split_markdown(text)) == text


def test_a_block_is_finished_by_the_next_one_and_not_before() -> None:
    blocks = Blocks()
    assert blocks.feed("```\ncode\n\n# still code\n") == []
    assert blocks.feed("```\n") == []
    assert blocks.feed("Af") == []
    assert blocks.feed("ter\n") == ["```\ncode\n\n# still code\n```\n"]
    assert blocks.rest == "After\n"


@settings(deadline=None)
@given(text=markdown, cuts=st.lists(st.integers(0, 400), max_size=8), rests=st.lists(st.booleans(), max_size=9))
def test_the_screen_ends_as_if_all_had_come_at_once(text: str, cuts: list[int], rests: list[bool]) -> None:
    terminal, loop = Terminal(), Loop()
    writer = MarkdownWriter(Console(file=terminal, width=40, height=10), loop=loop)
    for piece, rest in zip(pieces(text, cuts), [*rests, *[True] * 9], strict=False):
        writer.feed(piece)
        if rest:
            loop.pass_time(1.0)
            assert len(terminal.shown) < 10 + len(whole(text))
    writer.close()
    assert terminal.shown == whole(text)
    assert terminal.widest <= 40


@settings(deadline=None)
@given(text=markdown)
def test_blocks_look_as_in_the_whole_text(text: str) -> None:
    lines = rendered(Console(file=io.StringIO(), width=40), text)
    expected = ["".join(segment.text for segment in line).rstrip() for line in lines]
    while expected and not expected[-1]:
        expected.pop()
    assert whole(text) == expected or not expected


@pytest.mark.parametrize(
    "text",
    [
        "press </kbd></kbd>\n\nthen",
        "Use List<String> and Map<K, V> here.",
        "Put it into a <div> or <head>.",
        "chatbridge repl -p <text>",
        "[a]: http://b.c",
        "[^1]: a note",
        "See https://example.com/api/_v1_/users now",
        "www.example.org/__init__/*a*",
    ],
)
def test_what_is_no_markdown_is_shown_as_typed(text: str) -> None:
    assert whole(text, width=80) == text.split("\n")


@pytest.mark.parametrize("text", ["```\n```", ">", "[]()", "#"])
def test_an_answer_of_marks_alone_is_shown_as_typed(text: str) -> None:
    assert whole(text) == text.split("\n")


def told(nodes: Iterable[MarkdownNode]) -> str:
    """All that a tree says, in its order, with the addresses of links."""
    return "".join(_told(node) for node in nodes)


def _told(node: MarkdownNode) -> str:
    if node.kind == "code_block" and not node.text.strip():
        return ""
    words = node.text + told(node.children)
    if node.kind == "ordered_list":
        return "".join(f"{number}.{_told(item)}" for number, item in enumerate(node.children, node.number))
    if node.kind == "item":
        return {"todo": "☐", "done": "☑"}.get(node.data, "") + words
    if node.kind in ("link", "image") and node.data not in (words, f"mailto:{words}"):
        return f"{words} ({node.data})" if words.strip() else node.data
    return words


def letters(text: str) -> str:
    """Without blanks, and without what is drawn: lines, bars, bullets."""
    return re.sub(r"[\s─│▌•]", "", text)


@settings(deadline=None)
@given(text=markdown, width=st.sampled_from([60, 24, 9]))
@example(text="> " * 20 + "deep", width=9)
@example(text="| a | b | c | d |\n|-|-|-|-|\n| long-words | in | narrow | [x](http://b.c) |", width=9)
def test_every_letter_is_shown_however_narrow_the_screen_is(text: str, width: int) -> None:
    tree = parse_markdown(text)
    if any(node.kind == "table" for node in _within(tree)) and width > 9:
        width = 60  # cells beside each other that are folded are read column by column
    lines = rendered(Console(file=io.StringIO(), width=width), text)
    shown = "\n".join("".join(segment.text for segment in line) for line in lines)
    assert letters(shown) == letters(told(tree))


def _within(nodes: Iterable[MarkdownNode]) -> Iterator[MarkdownNode]:
    for node in nodes:
        yield node
        yield from _within(node.children)


def test_a_picture_stays_where_it_is_and_tells_its_address() -> None:
    assert whole("Before ![a cat](cat.png) after") == ["Before a cat (cat.png) after"]
    assert whole("![](cat.png)") == ["cat.png"]
    assert whole("[![a cat](cat.png)](http://b.c)") == ["a cat (cat.png) (http://b.c)"]


def test_items_of_nothing_have_their_marks() -> None:
    assert whole("- a\n-\n- [x] b") == [" • a", " •", " • ☑ b"]
    assert whole("9. a\n10. b\n    - c") == ["  9. a", " 10. b", "      • c"]


@pytest.mark.parametrize("width", [14, 20, 40])
def test_a_table_that_is_too_wide_is_folded_and_loses_nothing(width: int) -> None:
    shown = "".join(
        "".join(whole("| one | two |\n|-|-|\n| a-very-long-word | [x](http://example.org/long) |", width)).split()
    )
    for word in ("one", "two"):
        assert word in shown
    letters = "a-very-long-wordx(http://example.org/long)"
    assert sorted(letter for letter in shown if letter not in "─│") == sorted("onetwo" + letters)


def test_blocks_are_separated_by_one_blank_line_whatever_they_are() -> None:
    shown = "\n".join(whole("# A\ntext\n- list\n\n---\n| a | b |\n|---|---|\n| 1 | 2 |\n> quote\n"))
    assert shown.strip("\n") == shown
    assert "\n\n\n" not in shown
    assert shown.count("\n\n") == 5


def test_a_line_break_is_one() -> None:
    assert whole("Roses are red,\nviolets are *blue*.") == ["Roses are red,", "violets are blue."]


def test_link_addresses_are_written_out() -> None:
    assert whole("[here](http://example.org)") == ["here (http://example.org)"]


def test_chinese_takes_two_columns_a_character() -> None:
    shown = whole("| 名称 | 数 |\n|---|---|\n| 模型 | 12 |\n| abc | 3 |\n", width=30)
    at = {row.split()[0]: row for row in shown if row.strip() and not set(row) <= set(" ─")}
    # A column's cells begin below each other: four columns for 名称 and 模型, three and a blank for abc.
    assert at["名称"].index("数") + 2 == at["模型"].index("12") + 2 == at["abc"].index("3")
    assert whole("中" * 25, width=40) == ["中" * 20, "中" * 5]


def test_the_last_block_is_live_at_most_15_times_a_second() -> None:
    terminal, loop = Terminal(), Loop()
    writer = MarkdownWriter(Console(file=terminal, width=40, height=10), loop=loop)
    drawn = 0
    for number in range(400):
        writer.feed(f"word{number} ")
        drawn += loop.pass_time(0.005)
    assert 0.5 / INTERVAL <= drawn <= 2 / INTERVAL + 1, "two seconds of tokens"
    loop.pass_time(1.0)
    assert "word399" in "\n".join(terminal.shown), "what came last must not wait for the next token"
    writer.close()


def test_a_finished_block_is_not_written_again() -> None:
    terminal, loop = Terminal(), Loop()
    writer = MarkdownWriter(Console(file=terminal, width=40, height=10), loop=loop)
    writer.feed("the first\n\nthe second\n")
    loop.pass_time(1.0)
    before = len(terminal.writes)
    for _ in range(5):
        writer.feed("more ")
        loop.pass_time(1.0)
    writer.close()
    assert "the first" not in "".join(terminal.writes[before:])
    assert "the second" in "".join(terminal.writes[before:])


def test_of_a_block_taller_than_the_terminal_the_end_is_live() -> None:
    terminal, loop = Terminal(), Loop()
    writer = MarkdownWriter(Console(file=terminal, width=40, height=10), loop=loop)
    code = "\n".join(f"line {number}" for number in range(30))
    writer.feed(f"```\n{code}")
    loop.pass_time(1.0)
    assert "line 29" in "\n".join(terminal.shown)
    assert len(terminal.shown) <= 10
    writer.close()
    assert [row.strip() for row in terminal.shown if "line" in row] == code.splitlines()


def test_without_a_terminal_nothing_is_taken_back() -> None:
    file, loop = io.StringIO(), Loop()
    writer = MarkdownWriter(Console(file=file, width=40, force_terminal=True, color_system="standard"), loop=loop)
    writer.feed("**one**\n\ntwo\nth")
    loop.pass_time(1.0)
    assert re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()) == "one\n"
    writer.feed("ree")
    writer.close()
    assert re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()) == "one\n\ntwo\nthree\n"
    assert "\x1b[1m" in file.getvalue(), "forced colours are there"


@pytest.mark.parametrize("markup", ["", "\n\n", "```\n```"])
def test_nothing_shows_as_nothing(markup: str) -> None:
    assert rendered(Console(file=io.StringIO()), markup) == []
