"""Keeps one secret out of what libraries log, for frontends whose library writes it. Knows no library and no bot."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType

from chatbridge.operations.logs import HIDDEN

_NOTHING: Mapping[str, int] = MappingProxyType({})


class _Redacted(logging.Filter):
    def __init__(self, secret: str, quiet: Mapping[str, int]) -> None:
        super().__init__()
        self._secret = secret
        self._quiet = quiet

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < self._quiet.get(record.name, logging.NOTSET):
            return False
        # Now, not when it is written: a library may change an argument after it has logged it.
        record.msg, record.args = record.getMessage().replace(self._secret, HIDDEN), ()
        return True


@contextmanager
def redacted(secret: str, loggers: Iterable[str], quiet: Mapping[str, int] = _NOTHING) -> Iterator[None]:
    """As long as this lasts, what libraries log has `[hidden]` in the place of a secret, whatever handles the log.

    loggers: the names of those that may write the secret; a logger's children are to be named too.
    quiet: which loggers say too much, and the level (`logging.INFO`) below which nothing of theirs is logged.
    """
    filter = _Redacted(secret, quiet)
    with ExitStack() as after:
        for name in {*loggers, *quiet}:
            logger = logging.getLogger(name)
            logger.addFilter(filter)
            after.callback(logger.removeFilter, filter)
        yield
