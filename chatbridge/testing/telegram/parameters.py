"""The parameters of a call, sent as a form (objects as JSON in strings) or as JSON. Knows no method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chatbridge.testing.telegram.state import bad_request
from chatbridge.testing.wire.forms import Upload, parse_form, parse_json
from chatbridge.testing.wire.http import Request

MAX_DEPTH = 100
"""How deep JSON may be nested (TDLib, `json_decode`)."""


class Parameters:
    """Gives each parameter the type that a method wants."""

    def __init__(self, values: Mapping[str, Any], files: Mapping[str, Upload]) -> None:
        self.values, self.files = values, files

    @classmethod
    def of(cls, request: Request) -> Parameters:
        """Those of a request: of its query, and of its body of any kind. Raises the refusal of what can't be read."""
        kind = request.headers.get("content-type", "")
        try:
            if not request.body:
                return cls(dict(request.query), {})
            if kind.startswith("application/json"):
                given = parse_json(request.body, depth=MAX_DEPTH)
                if not isinstance(given, dict):
                    raise ValueError("no object")
                return cls({**request.query, **given}, {})
            fields, files = parse_form(kind, request.body)
        except ValueError:
            raise bad_request("can't parse the request body") from None
        return cls({**request.query, **fields}, files)

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) not in (None, "") or name in self.files

    def text(self, name: str) -> str:
        """A string; "" where it is missing."""
        value = self.values.get(name)
        return "" if value is None else value if isinstance(value, str) else json.dumps(value)

    def integer(self, name: str) -> int | None:
        """A number; None where it is missing or none."""
        try:
            return int(self.text(name))
        except ValueError:
            return None

    def flag(self, name: str) -> bool:
        """Whether it is true."""
        return self.text(name).lower() in ("true", "1", "yes")

    def object(self, name: str) -> Any:
        """An object or a list; None where it is missing. Refusal where it is no JSON."""
        value = self.values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            return value
        try:
            return parse_json(value, depth=MAX_DEPTH)
        except ValueError:
            raise bad_request(f"can't parse {name.replace('_', ' ')} JSON object") from None

    def upload(self, name: str) -> Upload | str:
        """A file that came along, or the id (or the address) of one."""
        if name in self.files:
            return self.files[name]
        value = self.text(name)
        if value.startswith("attach://"):
            found = self.files.get(value.removeprefix("attach://"))
            if found is None:
                raise bad_request(f"file {value!r} was not sent along")
            return found
        if not value:
            raise bad_request(f"there is no {name} in the request")
        return value
