"""Keeps a bot's token out of the log: the libraries write addresses, and the token is a part of each. Knows no bot."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("httpx", "telegram.Bot", "telegram.request")


class _Redacted(logging.Filter):
    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "httpx" and record.levelno <= logging.INFO:
            return False  # a line for each call, each poll among them
        # Now, not when it is written: the library puts the address of a file into what it has logged already.
        record.msg, record.args = record.getMessage().replace(self._secret, "<token>"), ()
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
