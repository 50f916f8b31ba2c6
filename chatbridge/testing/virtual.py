"""Time that passes at once: an event loop whose clock leaps to the next deadline, and a clock that runs faster."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, whatever it waits for: hours of `asyncio.sleep` take no time, and `loop.time()` begins at 0.

    Work on other threads is waited for before time goes on, so the order of events is always the same. Sockets and
    subprocesses have times of their own and do not belong here.
    """
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(main)


def wakeups() -> int:
    """How often the loop of `run_virtually` has slept, and woken up, so far."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _VirtualLoop), "this loop runs in real time"
    return loop.wakeups


class HurriedClock:
    """A delivery's clock that runs `factor` times as fast as the loop's, for tests with real sockets."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def time(self) -> float:
        return asyncio.get_running_loop().time() * self.factor

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.factor)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        self.threads = 0
        self.wakeups = 0
        super().__init__(_LeapingSelector(self))

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, future: asyncio.Future[Any]) -> None:
        self.threads -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (asyncio's own)
        await super().shutdown_default_executor()  # without the time limit, which would be over at once


class _LeapingSelector(selectors.SelectSelector):
    def __init__(self, loop: _VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._loop.wakeups += 1
        if not timeout or timeout < 0:
            return super().select(timeout)
        if self._loop.threads:
            return super().select(None)
        events = super().select(0)
        if not events:
            self._loop.now += timeout
        return events
