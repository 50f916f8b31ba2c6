"""Markdown as text with a list of formats beside it, as Telegram takes it: nothing is left for the service to parse,
so nothing can be refused as badly formed. Knows no limits; the spans say what is formatted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from markdown_it.tree import SyntaxTreeNode

from chatbridge.delivery.discord_markdown import HEADING_HOLD, RULE
from chatbridge.delivery.markdown import table_rows, tree
from chatbridge.delivery.rendered import Hold, Rendered, Span, code_language
from chatbridge.delivery.tables import grid

WORD_JOINER = "\u2060"
"""Between an @ and a name: invisible, and nobody is called."""

FOLDED = "\u2063"
"""The first paragraph of a quotation that can be expanded: an invisible separator, and nothing else."""

_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_ADDRESS = re.compile(r"(?:https?://|tg://|mailto:)\S+")
_PERSON = re.compile(r"tg:(?://)?user(?:[/?#%]|$)", re.IGNORECASE)
"""A link that Telegram takes for a mention: it notifies that person. One of the kinds `tg://resolve` and
`https://t.me/name` only opens a profile."""
_QUOTES = {"blockquote", "expandable_blockquote"}
_INLINE = {"strong": "bold", "em": "italic", "s": "strikethrough"}


def as_entities(source: str, *, mentions: bool = False) -> Rendered:
    """The source as text and formats. Unless `mentions` are wanted, nobody is mentioned by it."""
    writer = _Writer(mentions)
    parsed = tree(source)
    if parsed is not None:
        writer.blocks(parsed.children, "\n\n")
    text = "".join(writer.pieces)
    if not text.strip():
        return Rendered(source.strip() if mentions else without_mentions(source.strip()))
    text = text.rstrip()
    spans = (replace(span, end=min(span.end, len(text))) for span in writer.spans)
    return Rendered(text, tuple(spans), tuple(writer.holds))


def folded(thought: str) -> str:
    """A thought as a quotation that is folded until somebody expands it, in Markdown for `as_entities`."""
    return "\n".join(f"> {line}" for line in (FOLDED, "", *thought.split("\n")))


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
        self.pieces: list[str] = []
        self.spans: list[Span] = []
        self.holds: list[Hold] = []
        self._mentions = mentions
        self._length = 0
        self._styles: list[_Style] = []
        self._indent = ""

    # --- blocks ------------------------------------------------------------------------------------------------

    def blocks(self, nodes: Sequence[SyntaxTreeNode], gap: str) -> None:
        for i, node in enumerate(nodes):
            if i:
                self._write(gap)
            self._block(node)

    def _block(self, node: SyntaxTreeNode) -> None:
        if node.type in ("fence", "code_block"):
            with self._style("pre", code_language(node.info)):
                self._write(node.content.rstrip("\n") or " ", code=True)
        elif node.type == "table":
            with self._style("pre"):
                self._write(grid(table_rows(node.to_tokens())), code=True)
        elif node.type == "heading":
            start = self._length
            with self._style("bold"):
                self._inline(node.children)
            self.holds.append(Hold(start, self._length + HEADING_HOLD))
        elif node.type == "blockquote":
            children = node.children
            fold = len(children) > 1 and [inline.content for inline in children[0].children] == [FOLDED]
            with self._style("expandable_blockquote" if fold else "blockquote"):
                self.blocks(children[1:] if fold else children, "\n\n")
        elif node.type in ("bullet_list", "ordered_list"):
            self._list(node)
        elif node.type == "hr":
            self._write(RULE)
        else:
            self._inline(node.children)

    def _list(self, node: SyntaxTreeNode) -> None:
        number = int(node.attrs.get("start", 1))
        outer = self._indent
        for i, item in enumerate(node.children):
            mark = f"{number + i}. " if node.type == "ordered_list" else "• "
            if i:
                self._write("\n")
            self._write(outer + mark)
            self._indent = outer + " " * max(len(mark), 3)
            for j, child in enumerate(item.children):
                if j:
                    self._write("\n")
                self._block(child)
            self._indent = outer

    # --- within a line -----------------------------------------------------------------------------------------

    def _inline(self, nodes: Sequence[SyntaxTreeNode]) -> None:
        for node in nodes:
            if node.type in ("softbreak", "hardbreak"):
                self._write("\n" + self._indent)
            elif node.type == "code_inline":
                start = self._length
                with self._style("code"):
                    self._write(node.content, code=True)
                self.holds.append(Hold(start, self._length))
            elif node.type in _INLINE:
                with self._style(_INLINE[node.type]):
                    self._inline(node.children)
            elif node.type in ("link", "image"):
                self._link(node)
            elif node.children:
                self._inline(node.children)
            else:
                self._write(node.content)

    def _link(self, node: SyntaxTreeNode) -> None:
        address = str(node.attrs.get("href") or node.attrs.get("src") or "")
        start = self._length
        if _ADDRESS.fullmatch(address) and (self._mentions or not _PERSON.match(address)):
            with self._style("text_link", address):
                self._inline(node.children)
                if self._length == start:
                    self._write(address)
        else:  # one that the service would not follow
            self._inline(node.children)
            self._write(f" ({address})" if address else "")
        self.holds.append(Hold(start, self._length))

    # --- text and formats --------------------------------------------------------------------------------------

    def _write(self, text: str, *, code: bool = False) -> None:
        if not (code or self._mentions):
            text = without_mentions(text)
            if self.pieces and self.pieces[-1].endswith("@") and re.match(r"\w", text):
                text = WORD_JOINER + text
        if not text:
            return
        start = self._length
        self.pieces.append(text)
        self._length += len(text)
        for style in self._styles:
            # Code carries no other format but a quote around it.
            if not code or style.kind in ("pre", "code", *_QUOTES):
                style.extend(start, self._length)

    @contextmanager
    def _style(self, kind: str, data: str = "") -> Iterator[None]:
        if any(style.kind == kind or {style.kind, kind} <= _QUOTES for style in self._styles):
            yield  # a quote in a quote, bold in bold: once is enough
            return
        style = _Style(kind, data)
        self._styles.append(style)
        yield
        self._styles.remove(style)
        self.spans += [Span(start, end, kind, data) for start, end in style.ranges]
