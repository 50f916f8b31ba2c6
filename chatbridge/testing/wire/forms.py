"""Bodies of requests: JSON, urlencoded and multipart forms. Knows no service's fields."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a multipart form, and its name."""

    name: str
    content: bytes
    content_type: str


MAX_DEPTH = 500
"""How deep JSON may be nested, for any Python: some parsers go deeper than others."""


def parse_json(text: str | bytes, *, depth: int = MAX_DEPTH) -> Any:
    """JSON nested `depth` deep at most; ValueError for anything else."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    level = [found]
    for _ in range(depth):
        if not level:
            return found
        level = [inner for one in level for inner in _inside(one)]
    if any(isinstance(one, (dict, list)) for one in level):
        raise ValueError("JSON nested too deep")
    return found


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def parse_form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, Upload]]:
    """The fields and the files of a form; ValueError where the body is none."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return dict(parse_qsl(body.decode(), keep_blank_values=True)), {}
    boundary = re.search(r'boundary="?([^";]+)"?', content_type)
    if kind != "multipart/form-data" or boundary is None:
        raise ValueError(f"not a form: {content_type!r}")
    fields: dict[str, str] = {}
    files: dict[str, Upload] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        lines = (line.partition(":") for line in head.decode().split("\r\n"))
        headers = {name.strip().lower(): value.strip() for name, _, value in lines}
        disposition = headers["content-disposition"]
        name, filename = _parameter("name", disposition), _parameter("filename", disposition)
        if filename is None:
            fields[name or ""] = content.decode()
        else:
            files[name or ""] = Upload(filename, content, headers.get("content-type", "application/octet-stream"))
    return fields, files


def _parameter(name: str, disposition: str) -> str | None:
    if found := re.search(rf"[; ]{name}\*=utf-8''([^;]+)", disposition, re.IGNORECASE):
        return unquote(found[1])
    found = re.search(rf'[; ]{name}="((?:[^"\\]|\\.)*)"', disposition)
    return None if found is None else found[1].replace('\\"', '"').replace("%22", '"')
