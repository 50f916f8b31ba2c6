"""A bar for long work in the terminal, with bytes and the time left; lines where there is none. Knows no work."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from chatbridge.cli.output import echo

_PAUSE = 10.0
"""Seconds between two lines where there is no terminal."""


class ProgressBar:
    """On stderr, so that what a command prints may go into a file. A `WorkProgress`, to be used in a `with`."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
            TimeRemainingColumn(), console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._drawn = sys.stderr.isatty()
        self._task = None if not self._drawn else self._bar.add_task("", visible=False)
        self._doing, self._total, self._done, self._told = "", 0, 0, 0.0

    def begin(self, doing: str, total: int) -> None:
        """A new stage of the work."""
        self._doing, self._total, self._done, self._told = doing, total, 0, time.monotonic()
        if self._task is not None:
            self._bar.reset(self._task, total=total or None, description=doing, visible=True)

    def advance(self, nbytes: int) -> None:
        """So many bytes more."""
        self._done += nbytes
        if self._task is not None:
            self._bar.advance(self._task, nbytes)
        elif time.monotonic() - self._told >= _PAUSE:
            self._told = time.monotonic()
            share = f", {self._done * 100 // self._total} %" if self._total else ""
            echo(f"{self._doing}: {self._done / 2**20:,.0f} MiB{share}", err=True)

    def __enter__(self) -> Self:
        if self._drawn:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._drawn:
            self._bar.stop()
