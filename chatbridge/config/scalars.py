"""What a scalar without quotes stands for in bots.yaml, and which are ambiguous. Knows single scalars, no document."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AmbiguousScalar:
    """A scalar that people, or versions of YAML, read in different ways: why, and what may be meant."""

    why: str
    readings: tuple[bool | int | float | str, ...]

    def advice(self, readings: Iterable[bool | int | float | str]) -> str:
        """What to write instead, for those of the readings that can be meant there."""
        return f"{self.why}; write {' or '.join(_written(reading) for reading in readings)}"


def plain_value(text: str) -> tuple[Any, AmbiguousScalar | None]:
    """The value of a scalar without quotes; for an ambiguous one, its likeliest reading."""
    lower = text.lower()
    if lower in ("", "~", "null"):
        return None, None
    if lower in ("true", "false"):
        return lower == "true", None
    if lower in ("on", "yes", "off", "no"):
        return _ambiguous(f"{text!r} is true or false to some and a word to others", lower in ("on", "yes"), text)
    if len(text) > 300:  # more digits than a number has; Python itself refuses to read very many
        return text, None
    if re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text) or re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return int(text, 0), None
    if re.fullmatch(r"[-+]?0[0-9]+", text):
        return _ambiguous(f"{text!r} with its leading 0 is another number to some", int(text), text)
    if re.fullmatch(r"0o[0-7]+|0b[01]+", text):
        return _ambiguous(_NUMBER_TO_SOME.format(text), int(text, 0), text)
    if re.fullmatch(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?", text):
        return _ambiguous(f"{text!r} is a count of seconds to some and a word to others", text)
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", "")), AmbiguousScalar(f"{text!r} is a number to some", (text,))
    digits = text.replace("_", "") if re.fullmatch(r"[-+]?[0-9][0-9_.eE+-]*", text) else text
    if re.fullmatch(r"[-+]?[0-9]+", digits):
        return _ambiguous(_NUMBER_TO_SOME.format(text), int(digits), text)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", digits):
        number = float(digits)
        if digits == text:
            return number, None
        return _ambiguous(_NUMBER_TO_SOME.format(text), *([number] if math.isfinite(number) else []), text)
    return text, None


_NUMBER_TO_SOME = "{!r} is a number to some and a word to others"


def _ambiguous(why: str, *readings: bool | int | float | str) -> tuple[Any, AmbiguousScalar]:
    return readings[0], AmbiguousScalar(why, readings)


def _written(reading: bool | int | float | str) -> str:
    if isinstance(reading, bool):
        return str(reading).lower()
    return f'"{reading}"' if isinstance(reading, str) else str(reading)
