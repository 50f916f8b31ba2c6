"""Markdown as models write it, parsed into what both renderers need. Knows no service."""

from __future__ import annotations

from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode


@cache
def parser() -> MarkdownIt:
    """CommonMark with tables and ~~strikethrough~~, without HTML and without definitions, which would vanish."""
    return _new_parser()


@cache
def block_parser() -> MarkdownIt:
    """The same, but for what is within lines: paragraphs and cells are left as they stand."""
    return _new_parser().disable("inline")


def _new_parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")


def unified(source: str) -> str:
    """The source with one kind of line end."""
    return source.replace("\r\n", "\n").replace("\r", "\n")


def tree(source: str) -> SyntaxTreeNode | None:
    """The blocks of a source. None where they lie so deep in each other that the parser has left some out."""
    tokens = parser().parse(unified(source))
    if any(token.level + token.nesting >= parser().options.maxNesting for token in tokens):
        return None
    return SyntaxTreeNode(tokens)


def plain_text(inline: Token) -> str:
    """What is left of a paragraph, or a cell, without its formatting."""
    words = {"softbreak": " ", "hardbreak": " "}
    children = inline.children or parser().parseInline(inline.content)[0].children or ()
    return "".join(words.get(child.type, child.content) for child in children)


def table_rows(tokens: list[Token]) -> list[list[str]]:
    """The cells of the table that the tokens, from `table_open` to `table_close`, stand for."""
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(plain_text(token))
    return rows
