"""Waiting until something has come true, without looking again and again. Knows nothing of what changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Changes:
    """Whoever changes something calls `tell`; whoever waits gives `until` a check, made anew after each change."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Something has changed."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, check: Callable[[], T | None], *, within: float = 60, what: str = "") -> T:
        """The first result of `check` that is not false. TimeoutError, saying `what`, after `within` real seconds."""
        try:
            async with asyncio.timeout(within):
                while not (found := check()):
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting.add(future)
                    try:
                        await future
                    finally:
                        self._waiting.discard(future)
                return found
        except TimeoutError:
            raise TimeoutError(f"waited {within:g} s for {what or 'a change'}") from None
