"""What a bot's delivery does beside everything else, so that a shutdown can wait for it or end it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from chatbridge.errors import StoreFull

log = logging.getLogger(__name__)


class Tasks:
    """A set of running tasks. One that fails is logged, and what it worked on waits to be tried again.

    Unlike `asyncio.TaskGroup`, the failure of one ends no other.
    """

    def __init__(self, bot: str) -> None:
        self._bot = bot
        self.failed = False
        """Whether one has failed since somebody set this to False: what it worked on waits in the inbox."""
        self._running: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """Those that have not ended."""
        return list(self._running)

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Work on something beside everything else."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def cancel(self) -> asyncio.Future[list[Any]]:
        """Ask all to end; await what is returned until they have."""
        running = self.running
        for task in running:
            task.cancel()
        return asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed = True
            trace = None if isinstance(error, StoreFull) else error  # that says all there is to know
            log.error("bot %s: a message waits to be tried again: %s", self._bot, error, exc_info=trace)
