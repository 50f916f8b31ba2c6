"""Shows a talk as plain text, for pipes and files: answers on stdout, everything else on stderr. Reads its lines.

Knows no bot and no terminal.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import TextIO

from chatbridge import Chunk, printable
from chatbridge_repl.waiting import Waiting

MAX_LINE = 2**20
"""Characters of a line of the input; a longer one is no text that somebody wrote, as /dev/zero is none."""
MAX_WAITING = 100
"""Lines that are read ahead."""


class Plain:
    """The `View` of a pipe. `squeeze` leaves blank lines out of answers, so that the answers to lines are lines."""

    def __init__(self, out: TextIO, err: TextIO, waiting: Waiting, *, squeeze: bool) -> None:
        self._out = out
        self._err = err
        self._waiting = waiting
        self._squeeze = squeeze

    @contextmanager
    def answering(self) -> Iterator[PlainStream]:
        self._waiting.start()
        stream = PlainStream(self._out, self._waiting, squeeze=self._squeeze)
        try:
            yield stream
        finally:
            self._waiting.stop()
            stream.close()

    def answer(self, text: str) -> None:
        stream = PlainStream(self._out, self._waiting, squeeze=self._squeeze)
        stream.feed(Chunk(text))
        stream.close()

    def notice(self, text: str) -> None:
        self.error(text)

    def error(self, text: str) -> None:
        self._waiting.stop()
        self._err.write(f"chatbridge: {printable(text)}\n")
        self._err.flush()


class PlainStream:
    """One answer, written as it comes; blanks are held back until it is known that they are not its end."""

    def __init__(self, out: TextIO, waiting: Waiting, *, squeeze: bool) -> None:
        self._out = out
        self._waiting = waiting
        self._squeeze = squeeze
        self._held = ""
        self._begun = False
        self._thinking = False

    def loading(self, model: str, share: float, doing: str) -> None:
        self._waiting.loading(model, share, doing)

    def feed(self, chunk: Chunk) -> None:
        text = self._held + printable(chunk.text)
        if chunk.text and self._begun and chunk.thinking != self._thinking:
            text = f"\n{_without_blanks_before(text)}"
        said = text.rstrip()
        self._held = text[len(said) :]
        if not said:
            return
        if not self._begun:
            said = _without_blanks_before(said)
        if self._squeeze:
            said = _squeezed(said)
        self._waiting.stop()
        self._begun, self._thinking = True, chunk.thinking
        self._out.write(said)
        self._out.flush()

    def close(self) -> None:
        if self._begun:
            self._out.write("\n")
            self._out.flush()


def _without_blanks_before(text: str) -> str:
    """The text without blanks before its first word; but those stay that indent code (four, as in Markdown)."""
    words = text.lstrip()
    line = text[text.rfind("\n", 0, len(text) - len(words)) + 1 :]
    return line if len(line) - len(words) >= 4 or line.startswith("\t") else words


def _squeezed(text: str) -> str:
    """The text, which ends with no blank, without blank lines, and without blanks behind the others."""
    first, *others = text.split("\n")
    if not others:
        return text
    return "\n".join([first.rstrip(), *(line.rstrip() for line in others if line.strip())])


async def lines(source: TextIO) -> AsyncIterator[str]:
    """The lines of a file or pipe without their ends, as they come; blank ones are passed over.

    Raises: OSError where it can't be read, as a closed one, or one line of it does not end.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | OSError | None] = asyncio.Queue(MAX_WAITING)

    def put(item: str | OSError | None) -> None:
        # Waits where much is unread: a file of any size must not fill the memory.
        asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

    def read() -> None:
        # By the descriptor, on a thread of its own: nothing can end a read that waits, so it must be possible to
        # leave it behind when the program ends, and a text file would hold a lock then.
        decoder = codecs.getincrementaldecoder(source.encoding or "utf-8")("replace")
        rest, ended = "", False
        with suppress(RuntimeError, CancelledError):  # the loop is closed: nobody listens any more
            try:
                while not ended:
                    data = os.read(source.fileno(), 65536)
                    ended = not data
                    *complete, rest = (rest + decoder.decode(data, ended)).split("\n")
                    for line in complete:
                        put(line)
                    if len(rest) > MAX_LINE:
                        raise OSError(errno.EMSGSIZE, f"a line of more than {MAX_LINE} characters is no message")
                put(rest)
                put(None)
            except OSError as error:
                put(OSError(error.errno, error.strerror, "stdin"))

    threading.Thread(target=read, daemon=True, name="stdin").start()
    while (line := await queue.get()) is not None:
        if isinstance(line, OSError):
            raise line
        if line.strip():
            yield line.rstrip("\r\n")
