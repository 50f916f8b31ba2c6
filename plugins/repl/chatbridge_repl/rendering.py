"""Shows parsed Markdown as lines of a terminal. Knows rich and the width of the screen, no Markdown.

Nothing is left out for want of room: what is too wide is folded, and where nothing fits, it is not indented any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from rich import box
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from chatbridge import MarkdownNode, parse_markdown

Lines = list[list[Segment]]

NARROW = 12
"""Columns that words need: narrower blocks are not indented, and tables of narrower columns are none."""
_STYLES = {
    "bold": "markdown.strong",
    "italic": "markdown.em",
    "strikethrough": "markdown.s",
    "spoiler": "dim",
    "code": "markdown.code",
    "formula": "markdown.code",
    "address": "markdown.link_url",
}
_BOXES = {"todo": "☐ ", "done": "☑ "}


def rendered(console: Console, markup: str, style: str = "none") -> Lines:
    """Markdown as lines, without blank ones around it and blanks behind them."""
    screen = _Screen(console, console.get_style(style))
    return screen.blocks(parse_markdown(markup), console.width, apart=True)


def as_typed(console: Console, text: str, style: str = "none") -> Lines:
    """A text without any formatting."""
    return _Screen(console, console.get_style(style)).lines(Text(text), console.width)


@dataclass(frozen=True, slots=True)
class _Screen:
    console: Console
    style: Style

    def lines(self, what: RenderableType, width: int) -> Lines:
        options = self.console.options.update(width=max(1, width))
        return self.console.render_lines(what, options, style=self.style, pad=False)

    # --- blocks ------------------------------------------------------------------------------------------------

    def blocks(self, nodes: Sequence[MarkdownNode], width: int, *, apart: bool) -> Lines:
        """Blocks below each other, without blank lines around them; between them if they are to be `apart`."""
        found: Lines = []
        for node in nodes:
            if lines := _trimmed([_without_end(line) for line in self.block(node, width)]):
                found += [[], *lines] if apart and found else lines
        return found

    def block(self, node: MarkdownNode, width: int) -> Lines:
        match node.kind:
            case "code_block":
                return self._code(node.text, node.data.partition(" ")[0] or "text", width)
            case "formula_block":
                return self._code(node.text, "latex", width)
            case "table":
                return self._table(node, width)
            case "quote":
                bar = Segment("▌ ", self.console.get_style("markdown.block_quote"))
                return self._indented([bar], [bar], node.children, width, apart=True)
            case "bullet_list" | "ordered_list":
                return self._list(node, width)
            case "rule":
                return [[Segment("─" * max(1, width), self.console.get_style("markdown.hr"))]]
            case "heading":
                return self.lines(self.text(node.children, f"markdown.h{node.number}"), width)
            case _:
                return self.lines(self.text(node.children), width)

    def _code(self, code: str, language: str, width: int) -> Lines:
        if not code.strip():
            return []
        return self.lines(Syntax(code.rstrip("\n"), language, theme="monokai", word_wrap=True, padding=1), width)

    def _list(self, node: MarkdownNode, width: int) -> Lines:
        found: Lines = []
        last = len(str(node.number + len(node.children) - 1))
        for number, item in zip(count(node.number), node.children, strict=False):
            if node.kind == "ordered_list":
                mark, kind = f"{number}".rjust(last + 1) + ". ", "markdown.item.number"
            else:
                mark, kind = " • ", "markdown.item.bullet"
            mark += _BOXES.get(item.data, "")
            first = Segment(mark, self.console.get_style(kind))
            lines = self._indented([first], [Segment(" " * len(mark))], item.children, width, apart=False)
            found += lines or [[first]]
        return found

    def _indented(
        self, first: list[Segment], others: list[Segment], nodes: Sequence[MarkdownNode], width: int, *, apart: bool
    ) -> Lines:
        """Blocks with something before each of their lines."""
        before = sum(segment.cell_length for segment in first)
        if width - before < NARROW:
            lines = self.blocks(nodes, width, apart=apart)
            return [first, *lines] if lines and before <= width else lines
        lines = self.blocks(nodes, width - before, apart=apart)
        return [[*(others if at else first), *line] for at, line in enumerate(lines)]

    def _table(self, node: MarkdownNode, width: int) -> Lines:
        columns = max((len(row.children) for row in node.children), default=0)
        head, *rows = [[self.text(cell.children) for cell in row.children] for row in node.children]
        if width < NARROW * columns:
            return [line for row in (head, *rows) for line in self.lines(Text(" │ ").join(row), width)]
        table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True, border_style="markdown.table.border")
        for cell, words in zip(node.children[0].children, head, strict=True):
            align = cell.data if cell.data in ("center", "right") else "left"
            table.add_column(words, justify=align, overflow="fold", header_style="bold")  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*row)
        return self.lines(table, width)

    # --- within a line -----------------------------------------------------------------------------------------

    def text(self, nodes: Sequence[MarkdownNode], style: str = "none") -> Text:
        found = Text(overflow="fold")
        self._append(found, nodes, self.console.get_style(style))
        return found

    def _append(self, text: Text, nodes: Sequence[MarkdownNode], style: Style) -> None:
        for node in nodes:
            own = style + self.console.get_style(_STYLES[node.kind]) if node.kind in _STYLES else style
            if node.kind == "break":
                text.append("\n")
            elif node.kind in ("link", "image"):
                self._append_link(text, node, style)
            elif node.children:
                self._append(text, node.children, own)
            else:
                text.append(node.text, own)

    def _append_link(self, text: Text, node: MarkdownNode, style: Style) -> None:
        """A link or a picture: its words, and its address behind them, unless that is what they say."""
        start = len(text)
        self._append(text, node.children, style + self.console.get_style("markdown.link"))
        words = text.plain[start:]
        address = self.console.get_style("markdown.link_url")
        if not words.strip():
            text.append(node.data, style + address)
        elif node.data and node.data not in (words, f"mailto:{words}"):
            text.append(" (", style)
            text.append(node.data, style + address)
            text.append(")", style)


def _trimmed(lines: Lines) -> Lines:
    """Lines without blank ones around them."""
    first = next((at for at, line in enumerate(lines) if line), len(lines))
    last = next((at for at in range(len(lines), first, -1) if lines[at - 1]), first)
    return lines[first:last]


def _without_end(line: list[Segment]) -> list[Segment]:
    """The line without the blanks that fill it up; those with a background are part of what is seen."""
    line = list(line)
    while line and (line[-1].style is None or line[-1].style.bgcolor is None):
        text, style, control = line.pop()
        if text.rstrip():
            return [*line, Segment(text.rstrip(), style, control)]
    return line
