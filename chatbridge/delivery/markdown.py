"""Markdown as models write it, parsed once into a tree that every renderer reads. Knows no service.

CommonMark with tables, ~~strikethrough~~ and the rules of `markdown_rules`; without HTML, and without definitions of
links, which would vanish. A text that is still growing keeps the blocks that another one has followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

from chatbridge.delivery.markdown_rules import add_rules, open_marks

BlockKind = Literal[
    "paragraph", "heading", "code_block", "formula_block", "table", "row", "cell", "quote", "bullet_list",
    "ordered_list", "item", "rule",
]  # fmt: skip
InlineKind = Literal[
    "text", "break", "code", "formula", "address", "bold", "italic", "strikethrough", "spoiler", "link", "image"
]

FOLDED = "\u2063"
"""What the first paragraph of a quote that is to be folded says: an invisible separator, and nothing else."""

MAX_DEPTH = 100
"""How deep blocks may lie in each other."""


@dataclass(frozen=True, slots=True)
class MarkdownNode:
    """One piece of a text, a block or what is within lines, with what lies in it.

    text: of text, code, formulas (with their signs) and bare addresses, as they are to be read.
    data: the address of a link or an image, the info string of a code block, the alignment of a cell ("left",
    "center", "right"), the state of an item of a task list ("todo", "done"), "folded" of a quote to be opened.
    number: the level of a heading, the first number of an ordered list.
    apart: whether a blank line stands before a block.
    """

    kind: BlockKind | InlineKind
    children: tuple[MarkdownNode, ...] = ()
    text: str = ""
    data: str = ""
    number: int = 0
    apart: bool = False


def parse_markdown(source: str) -> tuple[MarkdownNode, ...]:
    """The blocks of a text. One that has others so deep in it that the parser leaves some out is shown as written."""
    source = unified(source)
    lines = source.split("\n")
    blocks: list[MarkdownNode] = []
    block: list[Token] = []
    for token in _parser().parse(source):
        block.append(token)
        if token.level == 0 and token.nesting <= 0:
            too_deep = any(one.level + one.nesting >= MAX_DEPTH for one in block)
            blocks += [_as_written(block[0], lines)] if too_deep else _tree(block, lines)
            block = []
    return tuple(blocks)


def split_markdown(source: str) -> list[str]:
    """The sources of the top-level blocks, each with the blank lines behind it; joined they are the text again."""
    lines = source.split("\n")
    starts = [token.map[0] for token in block_parser().parse(source) if token.level == 0 and token.map]
    edges = [0, *starts[1:], len(lines)]
    pieces = ["\n".join(lines[start:end]) for start, end in pairwise(edges)]
    return [piece + "\n" for piece in pieces[:-1]] + pieces[-1:]


def closing_marks(paragraph: str) -> str:
    """What would close the formats that a paragraph leaves open."""
    return open_marks(paragraph, _parser())


def unified(source: str) -> str:
    """The source with one kind of line end."""
    return source.replace("\r\n", "\n").replace("\r", "\n")


def plain_text(nodes: Iterable[MarkdownNode]) -> str:
    """What is left of a line without its formatting: links show their addresses, breaks are blanks."""
    return "".join(_plain(node) for node in nodes)


def _plain(node: MarkdownNode) -> str:
    if node.kind == "break":
        return " "
    words = node.text or plain_text(node.children)
    if node.kind not in ("link", "image") or not node.data or is_shown_by(words, node.data):
        return words
    return f"{words} ({node.data})" if words else node.data


def is_shown_by(words: str, address: str) -> bool:
    """Whether a link's words are its address."""
    return words == address or f"mailto:{words}" == address


def folded(thought: str) -> str:
    """A thought as a quote that is folded until somebody opens it, in Markdown: its first paragraph is `FOLDED`."""
    return "\n".join(f"> {line}" for line in (FOLDED, "", *thought.split("\n")))


# --- the parser --------------------------------------------------------------------------------------------------


class _Markdown(MarkdownIt):
    """Leaves addresses as they are written."""

    def normalizeLink(self, url: str) -> str:  # noqa: N802 - markdown-it's name
        return url

    def normalizeLinkText(self, link: str) -> str:  # noqa: N802
        return link


@cache
def _parser() -> MarkdownIt:
    parser = _Markdown("commonmark", {"html": False, "maxNesting": MAX_DEPTH})
    add_rules(parser)
    parser.enable(["table", "strikethrough"]).disable(["reference", "html_block", "html_inline"])
    return parser


@cache
def block_parser() -> MarkdownIt:
    """The same parser, but for what is within lines: paragraphs and cells are left as they stand."""
    parser = _Markdown("commonmark", {"html": False, "maxNesting": MAX_DEPTH})
    add_rules(parser)
    parser.enable("table").disable(["reference", "html_block", "inline"])
    return parser


# --- from its tokens to the tree ---------------------------------------------------------------------------------

_CONTAINERS: dict[str, BlockKind | InlineKind] = {
    "paragraph_open": "paragraph",
    "heading_open": "heading",
    "blockquote_open": "quote",
    "bullet_list_open": "bullet_list",
    "ordered_list_open": "ordered_list",
    "list_item_open": "item",
    "table_open": "table",
    "tr_open": "row",
    "th_open": "cell",
    "td_open": "cell",
    "strong_open": "bold",
    "em_open": "italic",
    "s_open": "strikethrough",
    "spoiler_open": "spoiler",
    "link_open": "link",
}
_LEAVES: dict[str, BlockKind | InlineKind] = {
    "text": "text",
    "text_special": "text",
    "softbreak": "break",
    "hardbreak": "break",
    "code_inline": "code",
    "formula": "formula",
    "address": "address",
    "code_block": "code_block",
    "fence": "code_block",
    "formula_block": "formula_block",
    "hr": "rule",
}
_TASKS = {"[ ] ": "todo", "[x] ": "done", "[X] ": "done"}


def _tree(tokens: Sequence[Token], lines: Sequence[str]) -> tuple[MarkdownNode, ...]:
    """Tokens, which open and close, as nodes that hold each other."""
    found: list[MarkdownNode] = []
    outer: list[tuple[Token, list[MarkdownNode]]] = []
    in_cell = False
    for token in tokens:
        if token.nesting == 1:
            outer.append((token, found))
            found = []
            in_cell = in_cell or token.type in ("th_open", "td_open")
        elif token.nesting == -1:
            opening, around = outer.pop()
            if opening.type in _CONTAINERS:
                around.append(_container(opening, tuple(found), lines))
            else:  # thead and tbody
                around += found
            found = around
            in_cell = in_cell and token.type not in ("th_close", "td_close")
        elif token.type == "inline":
            children = token.children or ()
            found += _tree([_in_cell(child) for child in children] if in_cell else children, ())
        elif token.type == "image":
            found.append(MarkdownNode("image", _tree(token.children or (), ()), data=str(token.attrs["src"])))
        elif token.content or token.type not in ("text", "text_special"):  # what is between two marks in a row
            kind = _LEAVES.get(token.type, "text")  # a tag that is none is text
            info = token.info if kind == "code_block" else ""
            found.append(MarkdownNode(kind, text=token.content, data=info, apart=_is_apart(token, lines)))
    return tuple(found)


def _as_written(token: Token, lines: Sequence[str]) -> MarkdownNode:
    first, after = token.map or (0, len(lines))
    words = [node for line in lines[first:after] for node in (MarkdownNode("break"), MarkdownNode("text", text=line))]
    return MarkdownNode("paragraph", tuple(words[1:]), apart=_is_apart(token, lines))


def _in_cell(token: Token) -> Token:
    """In the cell of a table, which is one line, `<br>` is a break: it can have no other."""
    return Token("hardbreak", "br", 0) if token.type == "break_tag" else token


def _container(opening: Token, children: tuple[MarkdownNode, ...], lines: Sequence[str]) -> MarkdownNode:
    kind = _CONTAINERS[opening.type]
    node = MarkdownNode(kind, children, apart=_is_apart(opening, lines))
    if kind == "quote" and len(children) > 1 and plain_text(children[0].children) == FOLDED:
        return replace(node, children=children[1:], data="folded")
    if kind == "heading":
        return replace(node, number=int(opening.tag[1:]))
    if kind == "ordered_list":
        return replace(node, number=int(opening.attrs.get("start", 1)))
    if kind == "link":
        return replace(node, data=str(opening.attrs["href"]))
    if kind == "cell":
        return replace(node, data=str(opening.attrs.get("style", "")).removeprefix("text-align:"))
    return _task(node) if kind == "item" else node


def _task(item: MarkdownNode) -> MarkdownNode:
    """An item that begins with a box is one of a task list."""
    first = item.children[0] if item.children else None
    words = first.children[0] if first is not None and first.kind == "paragraph" and first.children else None
    if first is None or words is None or words.kind != "text" or (state := _TASKS.get(words.text[:4])) is None:
        return item
    rest = replace(words, text=words.text[4:].lstrip())
    return replace(
        item, data=state, children=(replace(first, children=(rest, *first.children[1:])), *item.children[1:])
    )


def _is_apart(token: Token, lines: Sequence[str]) -> bool:
    return bool(token.map and token.map[0] and lines and not lines[token.map[0] - 1].strip(" \t>"))
