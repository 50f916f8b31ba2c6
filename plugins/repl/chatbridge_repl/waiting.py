"""Shows on stderr that something is awaited: a spinner, or how far a model is loaded. Nothing where stderr is no
terminal. Knows nothing of answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from chatbridge import printable
from chatbridge_repl.texts import say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Waiting:
    """A line that is there from `start` to `stop`; both may be called at any time."""

    def __init__(self, file: TextIO, language: str, *, colors: bool = True) -> None:
        self._file = file
        self._language = language
        self._colors = colors
        self._progress: Progress | None = None
        self._load: TaskID | None = None

    def start(self) -> None:
        """Something is awaited."""
        self.stop()
        if progress := self._started(bar=False):
            progress.add_task("")

    def loading(self, model: str, share: float, doing: str) -> None:
        """A model is loaded to that share, from 0 to 1."""
        if self._load is None:
            self.stop()
            if progress := self._started(bar=True):
                self._load = progress.add_task("", total=1.0)
        if self._progress is not None and self._load is not None:
            doing = printable(say(self._language, "loading", model=model, doing=doing))
            self._progress.update(self._load, completed=share, description=doing)

    def stop(self) -> None:
        """It came, or will never come: take the line away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._load = None

    def _started(self, *, bar: bool) -> Progress | None:
        if not self._file.isatty():
            return None
        # Not at the top: a talk in pipes needs no rich.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskProgressColumn, TextColumn

        columns: list[ProgressColumn] = [SpinnerColumn()]
        if bar:
            columns += [TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()]
        self._progress = Progress(
            *columns,
            console=Console(file=self._file, color_system="auto" if self._colors else None),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._progress.start()
        return self._progress
