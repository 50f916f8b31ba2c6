"""Markdown as nobody should write it, by a grammar, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

_words = st.sampled_from(
    [
        "word",
        "two words",
        "重点：",
        "「引号」",
        "中文",
        "x",
        "snake_case_name",
        "C:\\Users\\x",
        "1.",
        "5 * 3",
        "a|b",
        "don't",
    ]
)
_signs = st.sampled_from(
    [
        "*", "**", "***", "_", "__", "~~", "~", "||", "|", "`", "``", "```", "[", "]", "(", ")", "![", "](", "<", ">",
        "\\", "$", "\\(", "\\)", "$$", "#", "-#", ">>>", "::", ":x:", "&amp;", "&", "!", "-", "+", "1)", "<br>", "@",
    ]
)  # fmt: skip
_addresses = st.sampled_from(
    [
        "https://x.org/_a_/b", "https://x.org/?q=*a*b", "www.x.org/__init__/", "https://x.org/a_(b)", "https://x.org。后",
        "<https://x.org/a_b_>", "mailto:a@b.c", "docs.x.org/_a_b",
    ]
)  # fmt: skip
_blank = st.sampled_from(["", " ", " ", "\n", "\\\n", "  \n"])


def _around(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    marks = st.sampled_from(["*", "**", "***", "_", "__", "~~", "||", "`", "``"])
    marked = st.builds(lambda mark, words: f"{mark}{words}{mark}", marks, inner)
    targets = st.sampled_from(
        ["https://x.org/a", "a.md", "https://x.org/a_(b)", "https://x.org/(", "tg://user?id=1", ""]
    )
    links = st.builds(lambda sign, words, to: f"{sign}[{words}]({to})", st.sampled_from(["", "!"]), inner, targets)
    formulas = st.builds("${}$".format, inner) | st.builds("\\({}\\)".format, inner)
    several = st.lists(st.tuples(inner, _blank).map("".join), min_size=2, max_size=4).map("".join)
    return st.one_of(marked, links, formulas, several)


inline = st.recursive(st.one_of(_words, _words, _signs, _addresses), _around, max_leaves=8)
_line = inline.map(lambda text: text.replace("\n", " "))
_cells = st.lists(
    st.lists(_line.map(lambda text: text.replace("|", "\\|")), min_size=2, max_size=2), min_size=1, max_size=3
)


def _table(rows: list[list[str]]) -> str:
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|:--|--:|", *others])


def _indented(text: str, first: str, others: str) -> str:
    return first + text.replace("\n", f"\n{others}")


_leaf = st.one_of(
    inline,
    inline,
    st.builds(lambda level, text: f"{'#' * level} {text}", st.integers(1, 6), _line),
    st.builds(lambda fence, words: f"{fence}py\n{words}\n{fence}", st.sampled_from(["```", "````", "~~~"]), inline),
    st.builds("    {}".format, _line),
    st.builds("{}\n---".format, _line),
    st.builds(_table, _cells),
    st.builds("$$\n{}\n$$".format, _line),
    st.sampled_from(["---", "***", "[a]: https://x.org", "[^1]: a note", "- [x] done\n- [ ] to do", ">", "-", "```"]),
)


def _inside(blocks: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(blocks, min_size=1, max_size=3)
    gaps = st.sampled_from(["\n", "\n\n"])
    quotes = blocks.map(lambda text: _indented(text, "> ", "> "))
    lists = st.builds(lambda items, gap: gap.join(_indented(item, "- ", "  ") for item in items), several, gaps)
    numbered = st.builds(lambda items, gap: gap.join(_indented(item, "9. ", "   ") for item in items), several, gaps)
    joined = st.builds(lambda items, gap: gap.join(items), several, gaps)
    return st.one_of(quotes, lists, numbered, joined)


sources = st.recursive(_leaf, _inside, max_leaves=6)
