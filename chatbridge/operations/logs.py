"""The program's log, as text or as JSON lines, without any secret and without anything that steers a terminal.

Knows what tokens of chat services look like, and which libraries tell at length of what is their everyday life.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from chatbridge.operations.printable import as_json, escaped, in_one_line

if TYPE_CHECKING:
    from pydantic import BaseModel

    from chatbridge.config.settings import Settings

HIDDEN = "[hidden]"

_TOKENS = re.compile(
    r"(?<!\d)\d{6,12}:[A-Za-z0-9_-]{30,}"  # Telegram; in addresses it stands right behind a "bot"
    r"|\b[A-Za-z0-9_-]{23,40}\.[A-Za-z0-9_-]{6,7}\.[A-Za-z0-9_-]{25,45}"  # Discord
    r"|(?<=Bearer )\S+|(?<=Bot )\S{20,}"
)
LIBRARIES = frozenset({"aiohttp", "discord", "httpcore", "httpx", "telegram"})
"""Loggers of libraries that log an exception where a service or the network is in trouble."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Redactor:
    """Takes secrets out of texts: those that bots.yaml holds now or has held, and whatever looks like a token."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def learn(self, secrets: Iterable[str]) -> None:
        """Hide these from now on; very short ones would make words of the language unreadable, and are no secrets."""
        self._secrets.update(secret for secret in secrets if len(secret) >= 4)

    def __call__(self, text: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return _TOKENS.sub(HIDDEN, text)


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        # Only a record begins at the edge: what a stranger wrote can't pass for a line of the log.
        return escaped(self._redact(super().format(record))).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, error (a traceback) and what `extra` gives."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        if record.exc_info:
            fields["error"] = self._redact(self.formatException(record.exc_info))
        for key, value in vars(record).items():
            if key not in _STANDARD:
                fields[key] = value if isinstance(value, bool | int | float) else self._redact(str(value))
        return as_json(fields)


class Brief(logging.Filter):
    """Leaves the tracebacks of libraries out, of troubles that come and go: one line says what it was.

    A library logs the same for each try; what is behind it is the service's answer or the network, not its own code.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None and record.name.split(".")[0] in LIBRARIES:
            error = record.exc_info[1]
            record.msg, record.args = "%s: %s", (record.getMessage(), in_one_line(f"{type(error).__name__}: {error}"))
            record.exc_info = record.exc_text = None
        return True


def set_up(
    kind: Literal["text", "json"], level: int, redact: Callable[[str], str], stream: TextIO = sys.stderr
) -> None:
    """Send the log to `stream`, and nothing of it anywhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(redact) if kind == "json" else TextFormatter(redact))
    if level > logging.DEBUG:
        handler.addFilter(Brief())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for library in ("httpx", "httpcore"):  # they tell of every request, and some frontends ask all the time
        logging.getLogger(library).setLevel(logging.WARNING if level > logging.DEBUG else logging.DEBUG)


def secrets_of(settings: Settings) -> Iterator[str]:
    """Every secret that a bots.yaml holds."""
    for bot in settings.bots.values():
        yield from _secrets_in(bot.options)
    for model in settings.models.values():
        yield from _secrets_in(model.options)


def _secrets_in(options: BaseModel) -> Iterator[str]:
    from pydantic import BaseModel, SecretStr

    def inside(value: object) -> Iterator[str]:
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from _secrets_in(value)
        elif isinstance(value, dict):
            for inner in value.values():
                yield from inside(inner)
        elif isinstance(value, list | tuple | set | frozenset):
            for inner in value:
                yield from inside(inner)

    for name in type(options).model_fields:
        yield from inside(getattr(options, name))
