"""Where delivery's time comes from."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Clock(Protocol):
    """A source of time, in seconds; tests bring their own."""

    def time(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class LoopClock:
    """The running event loop's time."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
