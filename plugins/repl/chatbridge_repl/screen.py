"""Shows a talk on a terminal by rich: answers as Markdown while they come, notices and statistics in between.

Knows no bot and no keyboard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from chatbridge import Chunk, Finish, printable
from chatbridge_repl.markdown import MarkdownWriter
from chatbridge_repl.texts import say
from chatbridge_repl.waiting import Waiting

THOUGHT = "dim italic"


def console(color: str) -> Console:
    """The terminal on stdout, with colours "always", "never", or, with "auto", where rich finds that it has them."""
    if color == "never":
        return Console(color_system=None, highlight=False)
    if color == "auto":
        return Console(highlight=False)
    forced = Console(force_terminal=True, no_color=False, highlight=False)
    # None for a dumb terminal, or none; but always is always.
    return (
        forced
        if forced.color_system
        else Console(force_terminal=True, no_color=False, highlight=False, color_system="standard")
    )


class Screen:
    """The `View` of a terminal. `status`: whether each answer is followed by what it cost."""

    def __init__(self, console: Console, waiting: Waiting, language: str, *, status: bool = True) -> None:
        self.console = console
        self._waiting = waiting
        self._language = language
        self._status = status

    @contextmanager
    def answering(self) -> Iterator[ScreenStream]:
        self._waiting.start()
        stream = ScreenStream(self.console, self._waiting)
        try:
            yield stream
        finally:
            self._waiting.stop()
            stream.close()
        if stream.finish is not None and self._status:
            self.notice(status_line(stream.finish, self._language))

    def answer(self, text: str) -> None:
        writer = MarkdownWriter(self.console)
        writer.feed(printable(text))
        writer.close()

    def notice(self, text: str) -> None:
        self._line(text, "dim")

    def error(self, text: str) -> None:
        self._line(text, "red")

    def _line(self, text: str, style: str) -> None:
        self._waiting.stop()
        self.console.print(Text(printable(text), style))


class ScreenStream:
    """One answer: its thoughts, where they are shown, apart from what it says."""

    def __init__(self, console: Console, waiting: Waiting) -> None:
        self.finish: Finish | None = None
        self._console = console
        self._waiting = waiting
        self._writer: MarkdownWriter | None = None
        self._thinking = False
        self._blanks = ""

    def loading(self, model: str, share: float, doing: str) -> None:
        self._waiting.loading(model, share, doing)

    def feed(self, chunk: Chunk) -> None:
        self.finish = chunk.finish
        text = printable(chunk.text)
        if self._writer is not None and chunk.thinking != self._thinking and text:
            self.close()
            self._console.print()
        if self._writer is None:
            self._blanks += text
            if not self._blanks.strip():
                return
            # Lines of nothing are left out; blanks before the first word may indent code.
            text = self._blanks[self._blanks.rfind("\n", 0, len(self._blanks) - len(self._blanks.lstrip())) + 1 :]
            self._blanks = ""
            self._waiting.stop()
            self._thinking = chunk.thinking
            self._writer = MarkdownWriter(self._console, THOUGHT if chunk.thinking else "none")
        self._writer.feed(text)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def status_line(finish: Finish, language: str) -> str:
    """What an answer cost, and why it ended early if it did."""
    usage = finish.usage
    speed = f"{usage.tokens_per_second:.1f}" if usage.tokens_per_second else "–"
    cost = say(
        language,
        "status",
        generated=usage.generated,
        speed=speed,
        cached=usage.cached,
        read=usage.read,
        first=usage.first_token_seconds,
    )
    early = finish.reason in ("cancelled", "length")
    return f"{say(language, finish.reason)} · {cost}" if early else cost
