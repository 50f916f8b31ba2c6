"""Writes Markdown to a terminal while it comes: each finished block once, and the last one live.

Rendering everything anew for each token would take quadratic time, so only the unfinished block is drawn again, at
most 15 times a second. Knows rich, not what the text is about.
"""

from __future__ import annotations

import asyncio
import time

from rich.console import Console
from rich.live import Live
from rich.segment import SegmentLines
from rich.text import Text

from chatbridge import split_markdown
from chatbridge_repl.blocks import Blocks
from chatbridge_repl.rendering import Lines, as_typed, rendered

INTERVAL = 1 / 15
"""Seconds between two drawings, at least."""


class MarkdownWriter:
    """One Markdown text that grows. It must be closed; what has come by then stays on the screen.

    Needs a running event loop, or one handed in.
    """

    def __init__(self, console: Console, style: str = "none", *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._console = console
        self._style = style
        self._loop = loop or asyncio.get_running_loop()
        self._blocks = Blocks()
        self._unread = ""
        self._written = False
        self._unseen = ""
        """What has come before anything was written: marks that format nothing are shown as they are."""
        self._live: Live | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._earliest = 0.0

    def feed(self, text: str) -> None:
        """Append text; it is drawn soon, together with what comes until then."""
        self._unread += text
        if self._timer is None:
            wait = max(0.0, self._earliest - self._loop.time())
            self._timer = self._loop.call_later(wait, self._draw)

    def close(self) -> None:
        """The text is complete."""
        if self._timer is not None:
            self._timer.cancel()
        with self._console:
            self._write(self._blocks.feed(self._unread))
            if self._live is not None:
                self._live.update(Text())
                self._live.stop()
            self._write(split_markdown(self._blocks.rest))
            if not self._written and self._unseen.strip():
                lines = as_typed(self._console, self._unseen.strip(), self._style)
                self._console.print(SegmentLines(lines, new_lines=True), end="")

    def _draw(self) -> None:
        started = time.perf_counter()
        finished = self._blocks.feed(self._unread)
        self._unread, self._timer = "", None
        with self._console:  # one write for all of it, so that nothing flickers
            self._write(finished)
            # Colours that are forced into a pipe don't make a terminal of it.
            if self._console.file.isatty() and not self._console.is_dumb_terminal:
                self._preview(self._blocks.rest)
        # A block that is slow to draw, as a thousand lines of code, is drawn less often.
        self._earliest = self._loop.time() + max(INTERVAL, 3 * (time.perf_counter() - started))

    def _write(self, blocks: list[str]) -> None:
        for block in blocks:
            if not self._written:
                self._unseen += block
            if lines := self._rendered(block):
                self._console.print(SegmentLines(lines, new_lines=True), end="")
                self._written = True

    def _preview(self, block: str) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        # A terminal can't take back what has scrolled off its top: of a tall block only the end is live.
        lines = self._rendered(block)[-max(1, self._console.height - 2) :]
        self._live.update(SegmentLines(lines, new_lines=True), refresh=True)

    def _rendered(self, block: str) -> Lines:
        lines = rendered(self._console, block, self._style)
        return [[], *lines] if lines and self._written else lines
