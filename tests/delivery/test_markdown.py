"""What is read out of Markdown as people and models write it, beyond CommonMark."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from chatbridge import MarkdownNode, parse_markdown, split_markdown
from chatbridge.delivery.markdown import plain_text


def found(source: str, kind: str) -> list[str]:
    """The words of each node of a kind, in their order."""
    return [node.text or plain_text(node.children) for node in _walk(parse_markdown(source)) if node.kind == kind]


def _walk(nodes: Iterable[MarkdownNode]) -> Iterable[MarkdownNode]:
    for node in nodes:
        yield node
        yield from _walk(node.children)


def words(source: str) -> str:
    return "\n".join(plain_text(block.children) for block in parse_markdown(source))


@pytest.mark.parametrize(
    ("source", "bold"),
    [
        ("**重点：**后面的字", ["重点："]),
        ("这是**“引号”**里的", ["“引号”"]),
        ("**注意（重要）**请看", ["注意（重要）"]),
        ("これは**「重要」**です", ["「重要」"]),
        ("请看**《论语》**和**《孟子》**。", ["《论语》", "《孟子》"]),
        ("**第一，**先；**第二，**后", ["第一，", "第二，"]),
        ("버튼**(확인)**을 누르세요", ["(확인)"]),
        ("a**(b)**c", []),
        ("** 空 **", []),
    ],
)
def test_marks_beside_chinese_japanese_and_korean_are_marks(source: str, bold: list[str]) -> None:
    assert found(source, "bold") == bold


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("See https://example.com/api/_v1_/users now", "https://example.com/api/_v1_/users"),
        ("https://example.com/?q=*a*b", "https://example.com/?q=*a*b"),
        ("https://x.org/x__init__/y/__main__.py.", "https://x.org/x__init__/y/__main__.py"),
        ("**https://x.org/a_b**", "https://x.org/a_b"),
        ("(https://x.org/a_(b)_c)", "https://x.org/a_(b)_c"),
        ("见https://x.org/_a_。后面", "https://x.org/_a_"),
        ("www.example.org/__init__/*a*", "www.example.org/__init__/*a*"),
        ("docs.python.org/3/__main__.html", "docs.python.org/3/__main__.html"),
        ("https://x.org/?a=1&copy=2", "https://x.org/?a=1&copy=2"),
        ("“https://x.org/~a~~b”", "https://x.org/~a~~b"),
        ("[https://x.org/_a_](https://x.org)", "https://x.org/_a_"),
    ],
)
def test_bare_addresses_are_left_as_they_are(source: str, address: str) -> None:
    assert found(source, "address") == [address]


@pytest.mark.parametrize(
    "formula",
    [
        r"\( a_1 \)", r"\[ \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} \]", r"$\{x\}$", "$a*b*c$", r"$5\%$",
        r"\(x * y * z\)", r"$$\sum_i x_i$$", r"$a_1$, where", r"求$x_i$的", "$$a\n= b_1$$",
    ],
)  # fmt: skip
def test_formulas_are_kept_to_the_letter(formula: str) -> None:
    source = f"So {formula} holds"
    start = formula.index("\\" if formula.startswith("\\") else "$")
    kept = found(source, "formula")
    assert len(kept) == 1
    assert formula[start:].startswith(kept[0]) or kept[0] in formula


@pytest.mark.parametrize(
    "source",
    ["It costs $5 and $10.", "US$5 or A$6", "$HOME/$USER", r"f\(x\) is", "\\[a](b)", "$ 5 $", "5$ and 6$", "`$x$`"],
)
def test_prices_and_brackets_are_no_formulas(source: str) -> None:
    assert found(source, "formula") == []


@pytest.mark.parametrize(
    "source", ["$$\na\n- b\n# c\n$$", "\\[\nx\n=\ny\n\\]", "$$x = 1$$", "\\[ \\begin{x}\n> 1\n\\end{x} \\]"]
)
def test_lines_of_a_formula_are_no_other_blocks(source: str) -> None:
    (block,) = parse_markdown(source)
    assert (block.kind, block.text) == ("formula_block", source)


def test_a_formula_that_is_not_closed_ends_with_its_paragraph() -> None:
    assert split_markdown("$$\na\n\n# b") == ["$$\na\n\n", "# b"]
    assert found("> $$\n> a\nb", "formula_block") == ["$$\na"]


@pytest.mark.parametrize(
    "source",
    ["Use List<String> and Map<K, V>.", "a <div> or <head>", "repl -p <text>", "<br> is a tag", "</kbd>", "<!-- a -->"],
)
def test_generics_and_tags_are_text(source: str) -> None:
    assert words(source) == source


@pytest.mark.parametrize("tag", ["<br>", "<br/>", "<br />", "<BR>"])
def test_the_only_break_that_a_cell_can_have_is_one(tag: str) -> None:
    assert found(f"| a |\n|---|\n| x{tag}y |", "cell") == ["a", "x y"]


@pytest.mark.parametrize(
    ("source", "hidden"),
    [
        ("||it||", ["it"]),
        ("a ||b c|| d", ["b c"]),
        ("||**b**||", ["b"]),
        ("x || y || z", []),
        ("a||b||c", []),
        ("|||a|||", []),
    ],
)
def test_spoilers_are_no_operators(source: str, hidden: list[str]) -> None:
    assert found(source, "spoiler") == hidden


def test_items_with_a_box_are_tasks() -> None:
    states = [
        node.data
        for node in _walk(parse_markdown("- [ ] a\n- [x] b\n- [X] **c**\n- [y] d\n- []"))
        if node.kind == "item"
    ]
    assert states == ["todo", "done", "done", "", ""]


@pytest.mark.parametrize("source", ["[a]: http://b.c", "[^1]: a note", "[a][1] and [^1]"])
def test_references_are_left_as_typed(source: str) -> None:
    assert words(source) == source


@pytest.mark.parametrize("address", ["http://b.c/中文", "http://b.c/%7Ea", "HTTP://B.c/", "a b.md"])
def test_addresses_of_links_are_not_encoded(address: str) -> None:
    (link,) = (node for node in _walk(parse_markdown(f"[x](<{address}>)")) if node.kind == "link")
    assert link.data == address


def test_what_lies_too_deep_is_text_and_the_rest_is_not() -> None:
    blocks = parse_markdown(f"*a*\n\n{'> ' * 200}b\n\n*c*")
    assert [block.kind for block in blocks] == ["paragraph"] * 3
    assert found(f"*a*\n\n{'> ' * 200}b\n\n*c*", "italic") == ["a", "c"]


def test_blank_lines_between_blocks_are_known() -> None:
    assert [block.apart for block in parse_markdown("a\n- b\n\nc\n# d")] == [False, False, True, False]
