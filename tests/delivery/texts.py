"""Texts like those that models write, and worse, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

GRAPHEMES = ("👨‍👩‍👧‍👦", "🇩🇪", "é", "e\u0301\u0327", "नि", "각", "🤦🏽‍♂️", "\u05d0\u05b8", "مَ", "汉", "。", "ا")
words = st.one_of(
    st.sampled_from(
        [
            "word",
            "longer-word",
            "a",
            "Ωμέγα",
            "שלום",
            "مرحبا",
            "你好，世界。",
            "汉字" * 9,
            "https://example.org/" + "x" * 40,
        ]
    ),
    st.lists(st.sampled_from(GRAPHEMES), min_size=1, max_size=8).map("".join),
    st.sampled_from(
        ["**bold**", "`code`", "[a link](https://example.org)", "@everyone", "<@123>", "@name", "a@b.c", "*", "```"]
    ),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
)
lines = st.lists(words, min_size=1, max_size=12).map(" ".join)
code = st.builds(
    lambda fence, language, body, closed: f"{fence}{language}\n{body}{chr(10) + fence if closed else ''}",
    st.sampled_from(["```", "````", "~~~"]),
    st.sampled_from(["", "python", "c++", "an info string", "x" * 50]),
    st.lists(st.one_of(lines, st.just(""), st.just("    indented = 1")), max_size=8).map("\n".join),
    st.sampled_from([True, True, True, False]),
)
blocks = st.one_of(
    st.lists(lines, min_size=1, max_size=4).map("\n".join),
    code,
    lines.map("# {}".format),
    lines.map("##### {}".format),
    st.lists(lines.map("- {}".format), min_size=1, max_size=5).map("\n".join),
    code.map(lambda text: "- " + text.replace("\n", "\n  ")),
    lines.map("> {}".format),
    st.just("| a | b |\n|---|---|\n| 1 | 汉字 |\n| @everyone | x |"),
    st.just("---"),
    lines.map("    {}".format),
)
sources = st.lists(blocks, max_size=8).map("\n\n".join)


def answer(length: int) -> str:
    """A long answer with code blocks, lists and a table, of at least so many characters."""
    sections = []
    while sum(map(len, sections)) < length:
        number = len(sections)
        code_lines = "\n".join(f"    value_{i} = compute({i}, name='section {number}')" for i in range(number % 40 + 3))
        sections.append(
            f"## Section {number}\n\nSome words about section {number}, 还有一些中文 🙂, and **bold** ones. "
            f"{'A sentence more. ' * (number % 7)}\n\n"
            f"```python\ndef section_{number}():\n{code_lines}\n\n    return {number}\n```\n\n"
            f"- one {number}\n- two {number}\n\n| a | b |\n|---|---|\n| {number} | x |"
        )
    return "\n\n".join(sections)
