"""The store's one writer thread: what callers hand it while it is busy becomes one transaction, the next one.

Each caller gets its own result or error, and none before the commit that it is part of. Knows no database: it is told
how several works are run as one transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

Work = Callable[[sqlite3.Connection], Any]
"""What is done in a transaction."""

Outcome = tuple[Any, BaseException | None]
"""What came of a work: its result, or else the error that it raised."""

MAX_TOGETHER = 128
"""So many works are one transaction at most: the first one waits for the last."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A work and who waits for it; `alone`, without a connection, is run outside of any transaction."""

    result: asyncio.Future[Any]
    work: Work | None = None
    alone: Callable[[], Any] | None = None


class WriterThread:
    """Runs works in the order in which they came.

    `commit` runs several as one transaction, each of them whole or not at all, and raises where nothing is written.
    """

    def __init__(self, commit: Callable[[Sequence[Work]], list[Outcome]]) -> None:
        self._commit = commit
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._waiting: list[_Waiting] = []
        self._busy = False
        self._ended = False

    async def transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a work, together with whatever else waits for the thread. A caller that is cancelled stops nothing."""
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._add(_Waiting(result, work))
        return await result

    async def run(self, alone: Callable[[], T]) -> T:
        """Run something outside of any transaction, after all that was asked for before."""
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._add(_Waiting(result, alone=alone))
        return await result

    def shutdown(self) -> None:
        """End the thread, after which nothing may be open: whoever asks then is told so by what is closed."""
        self._ended = True
        self._thread.shutdown()

    # --- in the event loop -------------------------------------------------------------------------------------

    def _add(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if not self._busy:
            self._busy = True
            # Not at once: whoever else has something in this turn of the loop joins in.
            waiting.result.get_loop().call_soon(self._start)

    def _start(self) -> None:
        together, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
        loop = asyncio.get_running_loop()
        if self._ended:  # there is no thread to wait for, and nothing that could take time
            self._hand_out(together, self._run(together), loop)
            return
        done = loop.run_in_executor(self._thread, self._run, together)
        done.add_done_callback(lambda done: self._hand_out(together, done.result(), loop))

    def _hand_out(
        self, together: Sequence[_Waiting], outcomes: Sequence[Outcome], loop: asyncio.AbstractEventLoop
    ) -> None:
        for waiting, (value, error) in zip(together, outcomes, strict=True):
            if waiting.result.done():  # whoever asked was cancelled
                continue
            if error is None:
                waiting.result.set_result(value)
            else:
                waiting.result.set_exception(_for_future(error))
        self._busy = bool(self._waiting)
        if self._busy:  # those who go on now may have more
            loop.call_soon(self._start)

    # --- in the thread -----------------------------------------------------------------------------------------

    def _run(self, together: Sequence[_Waiting]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        works: list[Work] = []
        for waiting in together:
            if waiting.work is not None:
                works.append(waiting.work)
                continue
            outcomes += self._transactions(works)
            works = []
            assert waiting.alone is not None
            outcomes.append(_outcome(waiting.alone))
        return outcomes + self._transactions(works)

    def _transactions(self, works: Sequence[Work]) -> list[Outcome]:
        try:
            return self._commit(works) if works else []
        except BaseException as error:
            return [(None, error) for _ in works]


def _outcome(work: Callable[[], Any]) -> Outcome:
    try:
        return work(), None
    except BaseException as error:
        return None, error


def _for_future(error: BaseException) -> BaseException:
    """An error as a future takes it: not as the end of an iterator, which it refuses, with all who wait behind it."""
    if not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"the work raised {error!r}")
    told.__cause__ = error
    return told
