"""Markdown as text with a list of formats beside it, as Telegram takes it: nothing is left for the service to parse,
so nothing can be refused as badly formed. Knows no limits; the spans say what is formatted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from chatbridge.delivery.markdown import MarkdownNode, is_shown_by, parse_markdown, plain_text
from chatbridge.delivery.rendered import BOXES, HEADING_HOLD, RULE, Hold, Rendered, RenderedWriter, Span, code_language
from chatbridge.delivery.tables import grid

WORD_JOINER = "\u2060"
"""Between an @ and a name: invisible, and nobody is called."""

_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_ADDRESS = re.compile(r"(?:https?://|tg://|mailto:)\S+")
_PERSON = re.compile(r"tg:(?://)?user(?:[/?#%]|$)", re.IGNORECASE)
"""A link that Telegram takes for a mention: it notifies that person. One of the kinds `tg://resolve` and
`https://t.me/name` only opens a profile."""
_STYLES = {"bold": "bold", "italic": "italic", "strikethrough": "strikethrough", "spoiler": "spoiler"}
_QUOTES = {"blockquote", "expandable_blockquote"}
_AROUND_CODE = ("pre", "code", *_QUOTES)
"""What may lie around code, which carries no other format."""
_BULLETS = "•◦▪"
"""By depth, which is to be seen where a message begins within a list: blanks at its head are not sent."""


def as_entities(source: str, *, mentions: bool = False) -> Rendered:
    """The source as text and formats. Unless `mentions` are wanted, nobody is mentioned by it."""
    rendered = write_entities(parse_markdown(source), mentions=mentions)
    if not rendered.text.strip():
        return Rendered(source.strip() if mentions else without_mentions(source.strip()))
    return rendered


def write_entities(blocks: Sequence[MarkdownNode], *, mentions: bool = False) -> Rendered:
    """The same for a tree. A quote that is "folded" shows its first lines until somebody opens it."""
    writer = _Writer(mentions)
    writer.blocks(blocks)
    return writer.out.rendered()


def without_mentions(text: str) -> str:
    """The text with something invisible behind each @ that would call somebody."""
    return _MENTION.sub(f"@{WORD_JOINER}", text)


@dataclass(slots=True)
class _Style:
    kind: str
    data: str
    ranges: list[list[int]] = field(default_factory=list)

    def extend(self, start: int, end: int) -> None:
        if self.ranges and self.ranges[-1][1] == start:
            self.ranges[-1][1] = end
        else:
            self.ranges.append([start, end])


class _Writer:
    def __init__(self, mentions: bool) -> None:
        self.out = RenderedWriter()
        self._mentions = mentions
        self._styles: list[_Style] = []
        self._gap = ""
        """What is to be written before the next text, and how many of the styles it has."""
        self._gap_styles = 0
        self._indent = ""
        self._depth = 0

    # --- blocks ------------------------------------------------------------------------------------------------

    def blocks(self, nodes: Sequence[MarkdownNode], *, in_item: bool = False) -> None:
        """Blocks one below the other, with a blank line between them: but none in a list, nor before one that follows
        the words that introduce it."""
        last = self.out.length
        for node in nodes:
            if self.out.length > last:
                joined = in_item or (node.kind in ("bullet_list", "ordered_list") and not node.apart)
                self._space("\n" if joined else "\n\n")
                last = self.out.length
            self._block(node)

    def _block(self, node: MarkdownNode) -> None:
        match node.kind:
            case "code_block":
                self._code_block(node.text, code_language(node.data))
            case "formula_block":
                self._code_block(node.text, "latex")
            case "table":
                self._code_block(grid([[plain_text(cell.children) for cell in row.children] for row in node.children]))
            case "heading" if plain_text(node.children).strip():
                start = self._begin()
                with self._style("bold"):
                    self._inline(node.children)
                self.out.holds.append(Hold(start, self.out.length + HEADING_HOLD))
            case "quote":
                with self._style("expandable_blockquote" if node.data == "folded" else "blockquote"):
                    self.blocks(node.children)
            case "bullet_list" | "ordered_list":
                self._list(node)
            case "rule":
                self._write(RULE)
            case _:
                self._inline(node.children)

    def _code_block(self, code: str, language: str = "") -> None:
        code = code.rstrip()
        if code.strip():  # a block of nothing is no format for Telegram
            with self._style("pre", language):
                self._write(code, code=True)

    def _list(self, node: MarkdownNode) -> None:
        outer = self._indent
        self._depth += 1
        bullet = _BULLETS[min(self._depth, len(_BULLETS)) - 1]
        for number, item in zip(count(node.number), node.children, strict=False):
            mark = f"{number}. " if node.kind == "ordered_list" else f"{bullet} "
            if item is not node.children[0]:
                self._space("\n")
            if node.kind == "bullet_list" and item.data in BOXES:
                mark = ""
            start = self._write(outer + mark + BOXES.get(item.data, ""))
            self.out.holds.append(Hold(start, self.out.length + 1))
            self._indent = outer + " " * max(len(mark), 3)
            self.blocks(item.children, in_item=True)
            self._indent = outer
        self._depth -= 1

    # --- within a line -----------------------------------------------------------------------------------------

    def _inline(self, nodes: Sequence[MarkdownNode]) -> None:
        for node in nodes:
            if node.kind == "break":
                self._write("\n" + self._indent)
            elif node.kind in ("code", "formula"):
                start = self._begin()
                with self._style("code" if node.text.strip() else ""):
                    self._write(node.text, code=True)
                self.out.holds.append(Hold(start, self.out.length))
            elif node.kind in _STYLES:
                with self._style(_STYLES[node.kind]):
                    self._inline(node.children)
            elif node.kind in ("link", "image"):
                self._link(node)
            elif node.kind == "address":
                start = self._write(node.text)
                self.out.holds.append(Hold(start, self.out.length))
            else:
                self._write(node.text)

    def _link(self, node: MarkdownNode) -> None:
        """A link; its words, where they are code, are code no more, since Telegram takes but one of the two.

        One that Telegram would not follow has its address behind it, unless that is what it says.
        """
        start = self._begin()
        words = plain_text(node.children)
        if any(style.kind == "text_link" for style in self._styles):
            self._words(node.children)  # within the words of another one, its own are enough
            if not words.strip():
                self._write(node.data)
        elif not _ADDRESS.fullmatch(node.data) or (_PERSON.match(node.data) and not self._mentions):
            self._inline(node.children)
            if node.data and not is_shown_by(words, node.data):
                self._write(f" ({node.data})" if words.strip() else node.data)
        else:
            with self._style("text_link", node.data):
                if words.strip():
                    self._words(node.children)
                else:
                    self._write(node.data)
        self.out.holds.append(Hold(start, self.out.length))

    def _words(self, nodes: Sequence[MarkdownNode]) -> None:
        """What a link says."""
        for node in nodes:
            if node.kind in ("code", "formula"):
                self._write(node.text)
            elif node.kind in _STYLES:
                with self._style(_STYLES[node.kind]):
                    self._words(node.children)
            else:
                self._inline([node])

    # --- text and formats --------------------------------------------------------------------------------------

    def _space(self, gap: str) -> None:
        """Write this, with the formats of now, before the next text; nothing where none follows."""
        self._gap, self._gap_styles = gap, len(self._styles)

    def _write(self, text: str, *, code: bool = False) -> int:
        """Append text with the formats of now, and say where it begins."""
        if not (code or self._mentions):
            text = without_mentions(text)
            if self.out.last == "@" and not self._gap and re.match(r"\w", text):
                text = WORD_JOINER + text
        if text:
            self._begin()
        # Code carries no other format but a quote around it.
        return self._append(text, [style for style in self._styles if not code or style.kind in _AROUND_CODE])

    def _begin(self) -> int:
        """Be where the next text begins, which there will be, and say where that is."""
        if self._gap:
            self._append(self._gap, self._styles[: self._gap_styles])
            self._gap = ""
        return self.out.length

    def _append(self, text: str, styles: Sequence[_Style]) -> int:
        start = self.out.write(text)
        for style in styles if text else ():
            style.extend(start, self.out.length)
        return start

    @contextmanager
    def _style(self, kind: str, data: str = "") -> Iterator[None]:
        if not kind or any(style.kind == kind or {style.kind, kind} <= _QUOTES for style in self._styles):
            yield  # a quote in a quote, bold in bold: once is enough
            return
        style = _Style(kind, data)
        self._styles.append(style)
        yield
        self._styles.remove(style)
        self.out.spans += [Span(start, end, kind, data) for start, end in style.ranges]
