"""The program's log, as text or as JSON lines, without any secret. Knows what tokens of chat services look like."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from pydantic import BaseModel

    from chatbridge.config.settings import Settings

HIDDEN = "[hidden]"

_TOKENS = re.compile(
    r"(?<!\d)\d{6,12}:[A-Za-z0-9_-]{30,}"  # Telegram; in addresses it stands right behind a "bot"
    r"|\b[A-Za-z0-9_-]{23,40}\.[A-Za-z0-9_-]{6,7}\.[A-Za-z0-9_-]{25,45}"  # Discord
    r"|(?<=Bearer )\S+|(?<=Bot )\S{20,}"
)
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
        return self._redact(super().format(record))


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
        return json.dumps(fields, ensure_ascii=False)


def set_up(
    kind: Literal["text", "json"], level: int, redact: Callable[[str], str], stream: TextIO = sys.stderr
) -> None:
    """Send the log to `stream`, and nothing of it anywhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(redact) if kind == "json" else TextFormatter(redact))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change of any file beside ours
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
