"""Shows on stderr that something is awaited: a spinner, or how far a model is loaded. Nothing where stderr is no
terminal. Knows nothing of answers.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn

from chatbridge_repl.markdown import can_redraw
from chatbridge_repl.texts import say


class Waiting:
    """A line that is there from `start` to `stop`; both may be called at any time."""

    def __init__(self, console: Console, language: str) -> None:
        self._console = console
        self._language = language
        self._progress: Progress | None = None
        self._load: TaskID | None = None

    def start(self) -> None:
        """Something is awaited."""
        self._show(SpinnerColumn())
        if self._progress is not None:
            self._progress.add_task("")

    def loading(self, model: str, share: float, doing: str) -> None:
        """A model is loaded to that share, from 0 to 1."""
        doing = say(self._language, "loading", model=model, doing=doing)
        if self._load is None:
            columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()
            self._show(SpinnerColumn(), *columns)
            if self._progress is None:
                return
            self._load = self._progress.add_task(doing, total=1.0)
        assert self._progress is not None
        self._progress.update(self._load, completed=share, description=doing)

    def stop(self) -> None:
        """It came, or will never come: take the line away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._load = None

    def _show(self, *columns: SpinnerColumn | TextColumn | BarColumn | TaskProgressColumn) -> None:
        self.stop()
        if not can_redraw(self._console):
            return
        self._progress = Progress(
            *columns, console=self._console, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._progress.start()
