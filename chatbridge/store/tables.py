"""What a good row of each table looks like, and what stands in for a value that can't be read.

The schema's types are wishes to SQLite: a damaged page, a newer version or a person with a tool can leave anything in
any column. Knows the tables' columns; reads and writes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal["text", "int", "real", "flag", "ids", "object", "list"]
"""What a column holds: "ids" are tokens in four bytes each; "object" and "list" are texts in JSON."""

_SQL: Mapping[str, str] = {
    "text": "typeof({0}) = 'text'",
    "int": "typeof({0}) = 'integer'",
    "real": "typeof({0}) IN ('real', 'integer')",
    "flag": "typeof({0}) = 'integer'",
    "ids": "typeof({0}) = 'blob' AND length({0}) % 4 = 0",
    "object": "typeof({0}) = 'text' AND CASE WHEN json_valid({0}) THEN json_type({0}) = 'object' ELSE 0 END",
    "list": "typeof({0}) = 'text' AND CASE WHEN json_valid({0}) THEN json_type({0}) = 'array' ELSE 0 END",
}


@dataclass(frozen=True, slots=True)
class Column:
    """`null`: it may be NULL. `utf8`: the store is searched for bad bytes when it opens. `words`: all that it holds."""

    kind: Kind
    null: bool = False
    utf8: bool = False
    words: tuple[str, ...] = ()

    def sql(self, name: str) -> str:
        """A condition that holds for what can be read."""
        good = _SQL[self.kind].format(name)
        good += f" AND {name} IN {self.words}" if self.words else ""
        good += f" AND is_utf8(CAST({name} AS BLOB))" if self.utf8 else ""
        return f"({name} IS NULL OR {good})" if self.null else f"({good})"

    def complaint(self, value: object) -> str:
        """What is wrong with a value; empty for a good one. A text that is no UTF-8 comes as bytes."""
        if value is None:
            return "" if self.null else "it is NULL"
        if self.kind == "ids":
            return "" if isinstance(value, bytes) and len(value) % 4 == 0 else "it holds no ids of tokens"
        if self.kind in ("int", "flag"):
            return "" if isinstance(value, int) else "it is no whole number"
        if self.kind == "real":
            return "" if isinstance(value, int | float) and math.isfinite(value) else "it is no number"
        if not isinstance(value, str):
            return "it is no text in UTF-8" if isinstance(value, bytes) else "it is no text"
        if self.words and value not in self.words:
            return f"it is none of {', '.join(self.words)}"
        return "" if self.kind == "text" else self._no_json(value)

    def _no_json(self, text: str) -> str:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"it is no JSON: {error}"
        wanted = dict if self.kind == "object" else list
        return "" if isinstance(found, wanted) else f"it is no JSON {self.kind}"


@dataclass(frozen=True, slots=True)
class Table:
    """A table, its primary key, and all its columns but a numbered key.

    `mended`: rows of it are pointed at by others and so can't be taken out; these values stand in for bad ones.
    `together`: columns that mean something only together: where one is bad, all are mended.
    """

    name: str
    columns: Mapping[str, Column]
    key: tuple[str, ...] = ("id",)
    mended: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    together: tuple[str, ...] = ()

    def complaints(self, row: Mapping[str, Any]) -> dict[str, str]:
        """What is wrong with each bad column of a row."""
        found = {name: column.complaint(row[name]) for name, column in self.columns.items()}
        alone = [name for name in self.together if row[name] is not None]
        if 0 < len(alone) < len(self.together):
            found |= {name: found[name] or "it stands alone" for name in alone}
        return {name: why for name, why in found.items() if why}

    def bad(self) -> str:
        """A condition that holds for rows with a bad column."""
        return f"NOT ({' AND '.join(column.sql(name) for name, column in self.columns.items())})"


_text, _short = Column("text"), Column("text", utf8=True)
_int, _int_or_null, _real, _flag = Column("int"), Column("int", null=True), Column("real"), Column("flag")
_text_or_null = Column("text", null=True)

CONVERSATIONS = Table(
    "conversations",
    {
        "bot": _short,
        "channel": _short,
        "current": _flag,
        "head": _int_or_null,
        "trim": _int_or_null,
        "trim_room": _int_or_null,
        "overrides": Column("object"),
        "created": _real,
        "leaving": _flag,
        "touched": _real,
    },
    # Where it is a conversation of is unknown without these two, and so it is nobody's current one.
    mended=MappingProxyType(
        {
            "bot": "",
            "channel": "",
            "current": 0,
            "head": None,
            "trim": None,
            "trim_room": None,
            "overrides": "{}",
            "created": 0.0,
            "leaving": 0,
            "touched": 0.0,
        }
    ),
)
NODES = Table(
    "nodes",
    {
        "conversation": _int,
        "parent": _int_or_null,
        "role": Column("text", words=("system", "user", "assistant")),
        "text": _text,
        "name": _text,
        "trusted": _flag,
        "tokens": Column("ids", null=True),
        "tail": _text_or_null,
        "vocabulary": _text_or_null,
        "thoughts": _text_or_null,
        "frame": _text_or_null,
        "service_id": _text_or_null,
        "created": _real,
        "partial": _flag,
        "removed": _flag,
        "author": _text,
    },
    # Of all that it could have been it is what is trusted least.
    mended=MappingProxyType(
        {
            "parent": None,
            "role": "user",
            "text": "",
            "name": "",
            "trusted": 0,
            "tokens": None,
            "tail": None,
            "vocabulary": None,
            "thoughts": None,
            "frame": None,
            "service_id": None,
            "created": 0.0,
            "partial": 0,
            "removed": 0,
            "author": "",
        }
    ),
    together=("tokens", "tail", "vocabulary"),
)
INBOX = Table(
    "inbox",
    {
        "bot": _short,
        "channel": _short,
        "service_id": _short,
        "message": _text,
        "state": Column("text", words=("waiting", "running", "done", "dead", "dropped")),
        "attempts": _int,
        "error": _text,
        "live": Column("list"),
        "created": _real,
    },
)
OUTBOX = Table(
    "outbox",
    {
        "bot": _short,
        "channel": _short,
        "received": _int_or_null,
        "kind": Column("text", words=("send", "edit", "delete")),
        "target": _text,
        "part": _text,
        "reply_to": _text_or_null,
        "language": _text,
        "state": Column("text", words=("pending", "attempting", "delivered", "failed", "dropped")),
        "doubtful": _flag,
        "attempts": _int,
        "error": _text,
        "message_id": _text,
        "created": _real,
        "node": _int_or_null,
    },
)
INBOX_OPEN = "state IN ('waiting', 'running', 'dead')"
OUTBOX_OPEN = "state IN ('pending', 'attempting', 'failed')"
"""As the partial indexes have it: SQLite takes one only for a query that says the very same, and maybe more."""

CURSORS = Table("marks", {"bot": _short, "name": _short, "value": _int}, ("bot", "name"))
MESSAGES = Table(
    "messages",
    {"bot": _text, "channel": _text, "message_id": _text, "node": _int},
    ("bot", "channel", "message_id"),
)
PEOPLE = Table(
    "people",
    {
        "bot": _short,
        "user": _short,
        "name": _short,
        "code": _short,
        "paired": _flag,
        "paired_by": _text,
        "created": _real,
    },
    ("bot", "user"),
)
USAGE = Table(
    "usage",
    {"bot": _text, "user": _text, "day": _text, "name": _text, "tokens": _int, "answers": _int},
    ("bot", "user", "day"),
)
TABLES = {table.name: table for table in (CONVERSATIONS, NODES, INBOX, OUTBOX, CURSORS, MESSAGES, PEOPLE, USAGE)}
