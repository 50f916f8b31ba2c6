"""Keeps secrets out of the log: the bot's token, and the library's account of all that comes and goes. Knows no bot."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_TALKATIVE = ("discord.http", "discord.gateway", "discord.webhook.async_")
"""At level DEBUG these write whole events and addresses: what people said, and the tokens of interactions."""
_LOGGERS = (*_TALKATIVE, "discord.client", "discord.shard", "discord.state", "aiohttp.client", "asyncio")


class _Redacted(logging.Filter):
    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name in _TALKATIVE and record.levelno < logging.INFO:
            return False
        text = record.getMessage()
        if self._secret in text:
            record.msg, record.args = text.replace(self._secret, "<token>"), ()
        return True


@contextmanager
def redacted(secret: str) -> Iterator[None]:
    """As long as this lasts, what the libraries log has `<token>` in the place of a secret."""
    filter = _Redacted(secret)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(filter)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(filter)
