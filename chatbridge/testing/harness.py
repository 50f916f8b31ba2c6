"""What tests of a frontend begin with: settings for its bot, the frontend beside the test, a look at its log."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from chatbridge.config.settings import ChannelSettings

if TYPE_CHECKING:
    import pytest


def channel_settings(**more: object) -> ChannelSettings:
    """Settings by which every message is answered, in English and at any length, unless `more` says otherwise."""
    given = {"reply_to": "always", "language": "en", "sampling": {"max_tokens": 10_000}} | more
    return ChannelSettings.model_validate(given)


@asynccontextmanager
async def running(frontend: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """A frontend's `run`, until the context is left. What ended it before is raised then."""
    task = asyncio.create_task(frontend)
    try:
        yield task
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended


def log_lines(caplog: pytest.LogCaptureFixture, pattern: str) -> list[str]:
    """The lines of a test's log in which something matches: none may have a token in it."""
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    return [line for line in map(logging.Formatter().format, records) if re.search(pattern, line)]
