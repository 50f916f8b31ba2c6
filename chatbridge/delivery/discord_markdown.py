"""Markdown for a service that reads Markdown itself, a little differently: as Discord does.

What Discord formats is written in its marks, what it does not know (tables, deep headings, indented code) as what it
does, and all other signs are escaped. Knows no limits; spans, holds and gaps say how the text may be cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, zip_longest

from chatbridge.delivery.discord_escapes import (
    ends_address,
    escaped,
    in_fence,
    in_ticks,
    usable_marks,
    without_mentions,
)
from chatbridge.delivery.markdown import MarkdownNode, is_shown_by, parse_markdown, plain_text, unified
from chatbridge.delivery.rendered import (
    BOXES,
    HEADING_HOLD,
    RULE,
    TICKS,
    ZERO_WIDTH,
    Gap,
    Hold,
    Rendered,
    RenderedWriter,
    Span,
    code_language,
)
from chatbridge.delivery.tables import grid

_MANY_LINES = re.compile(r"\n{10,}")
_LAST_HASH = re.compile(r"#(?=\s|\Z)")
_FORMATS = ("bold", "italic", "strikethrough", "spoiler")
_BELOW_MARK = ("code_block", "formula_block", "table", "quote")
"""What can't stand behind the mark of an item, in its line."""
_QUOTE = "> "
DEEPEST_HEADING = 3


def as_markdown(source: str, *, mentions: bool = False) -> Rendered:
    """The source in Discord's dialect. Unless `mentions` are wanted, nobody is mentioned by it.

    A fence that the source leaves open (it may still be being written) is closed.
    """
    rendered = write_markdown(parse_markdown(source), mentions=mentions)
    if not rendered.text.strip():
        lines = "\n".join(escaped(line, at_line_start=True) for line in unified(source).strip().split("\n"))
        return Rendered(lines if mentions else without_mentions(lines))
    return rendered


def write_markdown(blocks: Sequence[MarkdownNode], *, mentions: bool = False) -> Rendered:
    """The same for a tree. What is in a quote that is "folded" is hidden until somebody presses it."""
    writer = _Writer(mentions)
    writer.blocks(blocks)
    return writer.rendered()


def _begins_with_hash(node: MarkdownNode) -> bool:
    """Whether the first words within a node are those of a text that begins with #."""
    while node.children:
        if node.kind not in ("heading", "link"):
            return False  # its mark stands first
        node = node.children[0]
    return node.kind == "text" and node.text.lstrip().startswith("#")


class _Writer:
    """Writes line by line: each begins with the quote's sign and the list's indentation, and has marks of its own, so
    that whatever line a message begins with, it looks as it did."""

    def __init__(self, mentions: bool) -> None:
        self._out = RenderedWriter()
        self._mentions = mentions
        self._quoted: int | None = None
        """Where the words of this line of a quote begin; None outside of quotes."""
        self._quote_depth = 0
        self._indent = ""
        self._formats: list[tuple[str, str, int]] = []
        """The kinds and marks that are open, and where the words behind each begin."""
        self._at_line_start = True
        self._in_link = False
        self._in_heading = False
        self._gap: str = ""
        """To be written before the next block: a line end, two, or those of a quote's blank line, "\\n>\\n"."""
        self._begun = False

    def rendered(self) -> Rendered:
        self._end_quoted_line()
        return self._out.rendered()

    # --- lines ---------------------------------------------------------------------------------------------------

    def _begin_line(self) -> None:
        """Be at the start of a line: below the block before, if there was one."""
        if self._gap:
            self._end_quoted_line()
            start = self._out.write("\n")
            if self._gap != "\n":
                # The blank line between two blocks of a quote is one of the quote.
                self._out.write(_QUOTE if self._quote_depth and self._gap == "\n>\n" else "")
                self._out.write("\n")
                self._out.gaps.append(Gap(start, self._out.length))
            self._gap = ""
            self._prefix()
        elif not self._begun:
            self._begun = True
            self._prefix()

    def _prefix(self) -> None:
        self._begun = True
        if self._quote_depth:
            start = self._out.write(_QUOTE)
            self._out.holds.append(Hold(start, start + len(_QUOTE) + len(self._indent) + 1, hard=True))
            self._quoted = self._out.length
        self._out.write(self._indent)
        self._at_line_start = True

    def _end_quoted_line(self) -> None:
        if self._quoted is not None and self._out.length > self._quoted:
            self._out.spans.append(Span(self._quoted - 1, self._out.length, "blockquote", "", _QUOTE, ""))
        self._quoted = None

    def _break(self) -> None:
        """End a line within a paragraph. What is open ends with it, and is opened again on the next."""
        formats = self._close_formats()
        self._end_quoted_line()
        self._out.write("\n")
        self._prefix()
        for kind, mark, _ in formats:
            self._open_format(kind, mark)

    # --- blocks --------------------------------------------------------------------------------------------------

    def blocks(self, nodes: Sequence[MarkdownNode], *, below_mark: bool = False) -> None:
        """Blocks one below the other, with a blank line between them where the source has one."""
        first = True
        for node in nodes:
            if not first:
                self._gap = "\n" if not node.apart else "\n>\n" if self._quote_depth else "\n\n"
            elif below_mark and node.kind in _BELOW_MARK:
                self._gap = "\n"
            before = self._out.length
            self._block(node)
            first = first and self._out.length == before

    def _block(self, node: MarkdownNode) -> None:
        match node.kind:
            case "code_block":
                self._code_block(node.text, code_language(node.data))
            case "formula_block":
                self._code_block(node.text, "latex")
            case "table":
                self._code_block(grid([[plain_text(cell.children) for cell in row.children] for row in node.children]))
            case "heading":
                self._heading(node)
            case "quote":
                self._quote(node)
            case "bullet_list" | "ordered_list":
                self._list(node)
            case "rule":
                self._begin_line()
                self._out.write(RULE)
            case _:
                self._begin_line()
                self._inline(node.children)

    def _heading(self, node: MarkdownNode) -> None:
        if not plain_text(node.children).strip():
            return
        self._begin_line()
        start = self._out.length
        if node.number <= DEEPEST_HEADING:
            mark = "#" * node.number + " "
            self._out.write(mark)
            if _begins_with_hash(node):  # with which Discord takes the line for no heading
                self._out.write("\\")
            self._at_line_start, self._in_heading = False, True
            self._inline(node.children, one_line=True)
            self._in_heading = False
            if self._out.last == "#":
                self._out.write(ZERO_WIDTH)
            self._out.spans.append(Span(start + len(mark), self._out.length, "heading", "", mark, ""))
        else:
            self._format(MarkdownNode("bold", node.children), None, one_line=True)
        self._out.holds += [
            Hold(start, start + node.number + 2, hard=True),
            Hold(start, self._out.length + HEADING_HOLD),
        ]

    def _quote(self, node: MarkdownNode) -> None:
        """A quote, of one level: Discord knows no deeper ones."""
        outer, self._indent = self._indent, ""
        self._quote_depth += 1
        self.blocks([_hidden(child) for child in node.children] if node.data == "folded" else node.children)
        self._quote_depth -= 1
        if not self._quote_depth:
            self._end_quoted_line()
        self._indent = outer

    def _list(self, node: MarkdownNode) -> None:
        outer = self._indent
        for number, item in zip(count(node.number), node.children, strict=False):
            if item is not node.children[0]:
                self._gap = "\n" if not item.apart else "\n>\n" if self._quote_depth else "\n\n"
            self._begin_line()
            mark = f"{number}. " if node.kind == "ordered_list" else "- "
            alone = not item.children or item.children[0].kind in _BELOW_MARK
            start = self._out.write(mark.rstrip() if alone else mark + BOXES.get(item.data, ""))
            self._out.holds.append(Hold(start, self._out.length + 1))
            self._at_line_start = True
            self._indent = outer + " " * len(mark)
            self.blocks(item.children, below_mark=True)
            self._indent = outer

    def _code_block(self, content: str, language: str = "") -> None:
        if not content.strip():
            return
        outer, self._indent = self._indent, ""
        self._begin_line()
        quoted = self._quote_depth > 0
        if quoted:
            self._quoted = None
        prefix = _QUOTE if quoted else ""
        start = self._out.write(f"{TICKS}{language}") - len(prefix)
        opening = f"{prefix}{TICKS}{language}\n"
        # Many blank lines in a row could fill a message, and a block of nothing else is none.
        code = _MANY_LINES.sub(lambda match: " ".join(match[0]), content.rstrip())
        code = in_fence(code)
        begun = first = 0
        for at, line in enumerate(code.split("\n")):
            self._out.write("\n")
            if quoted:
                self._prefix()
            if not at:
                first = self._out.length - len(prefix)
            self._out.write(line)
            begun = begun or (self._out.length - len(line) if line else 0)
            if quoted:
                self._end_quoted_line()
        after = self._out.write(f"\n{prefix}{TICKS}")
        self._out.spans.append(Span(first, after, "pre", language, opening, f"\n{prefix}{TICKS}"))
        self._out.holds += [Hold(start, begun + 1, hard=True), Hold(after - 1, self._out.length, hard=True)]
        self._indent = outer
        self._at_line_start = False

    # --- within a line -------------------------------------------------------------------------------------------

    def _inline(
        self, nodes: Sequence[MarkdownNode], *, one_line: bool = False, then: MarkdownNode | None = None
    ) -> None:
        """What is within lines; `then` follows it, with no mark in between."""
        for node, following in zip_longest(nodes, nodes[1:], fillvalue=then):
            assert node is not None
            if node.kind == "break":
                self._out.write(" ") if one_line else self._break()
            elif node.kind in ("code", "formula"):
                self._whole(in_ticks(node.text.replace("\n", " ")), "code")
            elif node.kind in _FORMATS:
                self._format(node, following, one_line=one_line)
            elif node.kind in ("link", "image"):
                self._link(node, following)
            elif node.kind == "address":
                self._address(node.text, following)
            else:
                self._text(node.text)
            if node.kind != "break":
                self._at_line_start = False

    def _format(self, node: MarkdownNode, following: MarkdownNode | None, *, one_line: bool) -> None:
        is_open = any(kind == node.kind for kind, *_ in self._formats)
        after = following.text[:1] if following is not None else ""
        mark = "" if is_open or not plain_text(node.children).strip() else usable_marks(node, self._out.last, after)
        if not mark:
            self._inline(node.children, one_line=one_line, then=following)
            return
        depth = len(self._formats)
        self._open_format(node.kind, mark)
        self._inline(node.children, one_line=one_line)
        self._close_formats(depth)

    def _open_format(self, kind: str, mark: str) -> None:
        if self._out.last == mark[0]:
            self._out.write(ZERO_WIDTH)  # two marks of one kind in a row would be read as another one
        start = self._out.write(mark)
        self._out.holds.append(Hold(start, start + len(mark) + 1, hard=True))
        self._formats.append((kind, mark, self._out.length))

    def _close_formats(self, depth: int = 0) -> list[tuple[str, str, int]]:
        """Close those that were opened at this depth and deeper. Returns them, the outer ones first."""
        closed = self._formats[depth:]
        for kind, mark, start in reversed(closed):
            end = self._out.write(mark)
            self._out.spans.append(Span(start, end, kind, "", mark, mark))
            self._out.holds.append(Hold(end - 1, self._out.length, hard=True))
        del self._formats[depth:]
        return closed

    def _link(self, node: MarkdownNode, following: MarkdownNode | None) -> None:
        """A link where Discord takes one; else the address is written behind the words, unless that is what it says."""
        words, address = plain_text(node.children), node.data
        if self._in_link or not address:  # within the words of another one, its own are enough
            self._inline(node.children, one_line=True, then=following)
            if not words.strip():
                self._text(address)
        elif not re.match(r"https?://\S+\Z", address):
            is_shown = is_shown_by(words, address)
            self._inline(node.children, one_line=True, then=following if is_shown else None)
            if not is_shown:
                self._text(f" ({address})" if words.strip() else address)
        elif not words.strip() or is_shown_by(words, address):
            self._whole(f"<{address}>" if ">" not in address else address, "link")
        elif "://" in words or "]" in words or "[" in words:  # a label that Discord would not take
            self._inline(node.children, one_line=True)
            self._out.write(" (")
            self._whole(f"<{address}>", "link")
            self._out.write(")")
        else:
            with self._held():
                self._out.write("[")
                self._at_line_start = False
                self._in_link = True
                self._inline(node.children, one_line=True)
                self._in_link = False
                self._out.write(f"]({_link_target(address)})")

    def _address(self, address: str, following: MarkdownNode | None) -> None:
        if not re.match(r"https?://", address, re.IGNORECASE):
            self._text(address)
        elif ends_address(following) and not self._out.last.isalnum():
            self._whole(address, "link")
        else:  # Discord takes all up to a blank for an address, and a Chinese sentence has none
            self._whole(f"<{address}>", "link")

    def _whole(self, text: str, kind: str) -> None:
        if kind == "code" and self._out.last == "`":
            self._out.write(ZERO_WIDTH)
        with self._held():
            start = self._out.write(text)
        if kind == "code":
            ticks = len(text) - len(text.lstrip("`"))
            mark = text[:ticks]
            end = self._out.length - ticks
            self._out.spans.append(Span(start + ticks, end, kind, "", mark, mark))
            self._out.holds += [
                Hold(start, start + ticks + 1, hard=True),
                Hold(end - 1, self._out.length, hard=True),
            ]

    @contextmanager
    def _held(self) -> Iterator[None]:
        start = self._out.length
        yield
        self._out.holds.append(Hold(start, self._out.length))

    def _text(self, text: str) -> None:
        if self._in_heading:  # Discord takes those at the end for marks that close it
            text = _LAST_HASH.sub(f"#{ZERO_WIDTH}", text)
        underlines = any(mark == "_" for _, mark, _ in self._formats)
        shown = escaped(text, self._out.last, at_line_start=self._at_line_start, within_underlines=underlines)
        self._out.write(shown if self._mentions else without_mentions(shown))


def _hidden(node: MarkdownNode) -> MarkdownNode:
    """A block with its words as spoilers, but for its code."""
    if node.kind in ("paragraph", "heading"):
        return replace(node, children=(MarkdownNode("spoiler", node.children),))
    return replace(node, children=tuple(_hidden(child) for child in node.children)) if node.kind != "table" else node


def _link_target(address: str) -> str:
    if address.count("(") != address.count(")"):
        address = address.replace("(", "%28").replace(")", "%29")
    return address.replace("\\", "%5C")
