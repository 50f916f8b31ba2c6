"""The small language of template formats: literal text with placeholders in braces. Knows no template and no model.

`{text}` and its like are filled in; `{bos}`, `{eos}` and `{token:<|im_end|>}` are control tokens; `{cut}` is a
border: text before and behind it is tokenised separately; `{{` and `}}` are plain braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from chatbridge.suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Something to fill in: `name` is text, name, round or system."""

    name: str


@dataclass(frozen=True, slots=True)
class Control:
    """A control token, as in `segments.Special`."""

    token: str


FormatPart = str | Placeholder | Control

CONTROLS = ("bos", "eos", "cut")
_BRACES = re.compile(r"\{\{|\}\}|\{token:(?P<token>[^{}]+)\}|\{(?P<name>[^{}]*)\}|[{}]")


@lru_cache(maxsize=512)
def parse(source: str) -> tuple[FormatPart, ...]:
    """The parts of a format. Raises ValueError, in words, for braces that are no placeholder."""
    parts: list[FormatPart] = []
    end = 0
    for match in _BRACES.finditer(source):
        parts.append(source[end : match.start()])
        end = match.end()
        found = match[0]
        if found in ("{{", "}}"):
            parts.append(found[0])
        elif match["token"]:
            parts.append(Control(match["token"]))
        elif match["name"] in CONTROLS:
            parts.append(Control("" if match["name"] == "cut" else match["name"]))
        elif match["name"]:
            parts.append(Placeholder(match["name"]))
        else:
            raise ValueError(f"a lone {found!r}; write {found[0] * 2!r} for the character itself")
    parts.append(source[end:])
    return _joined(parts)


def check(source: str, *, needs: Iterable[str] = (), allows: Iterable[str] = ()) -> None:
    """Raise ValueError, in words, unless each placeholder of `source` is known and each needed one is there once."""
    needs = tuple(needs)
    known = (*needs, *allows)
    names = [part.name for part in parse(source) if isinstance(part, Placeholder)]
    for name in names:
        if name not in known:
            words = ", ".join(f"{{{word}}}" for word in (*known, *CONTROLS)) + ", {token:…}"
            raise ValueError(f"{{{name}}} means nothing here{did_you_mean(name, known)} (known: {words})")
    for name in needs:
        if names.count(name) != 1:
            raise ValueError(f"{{{name}}} has to be in it exactly once, and is there {names.count(name)} times")


def _joined(parts: Iterable[FormatPart]) -> tuple[FormatPart, ...]:
    joined: list[FormatPart] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)
