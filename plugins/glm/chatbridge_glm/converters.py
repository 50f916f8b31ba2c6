"""Which conversions this plugin offers, and what the words of their targets mean; imports torch only to do one.

Knows words; leaves files and weights to `hub_conversion.py` and `sat_conversion.py`.
"""

from __future__ import annotations

import re

from chatbridge import Conversion, Converter, ModelLoadError

_BITS = {"int8": 8, "int4": 4, "int4-qe": 4}
_DEGREE = re.compile(r"tp([1-9]\d{0,3})(?:-(int8|int4))?")


def degree_and_bits(target: str) -> tuple[int | None, int]:
    """Of a target of GLM-130B: how many shards, None for as many as there are, and in how many bits, 0 for as it is.

    Raises ModelLoadError for what is no such target.
    """
    word = target.lower()
    if word in ("int8", "int4"):
        return None, _BITS[word]
    if (found := _DEGREE.fullmatch(word)) is None:
        raise ModelLoadError(f"{target!r}: write tp and the number of shards, as in tp4, or tp4-int4 to pack them, too")
    return int(found[1]), _BITS.get(found[2] or "", 0)


def _check_hub(work: Conversion) -> None:
    from chatbridge_glm import hub_conversion

    word = work.target.lower()
    hub_conversion.check(work, _BITS[word], embeddings=word.endswith("-qe"))


def _convert_hub(work: Conversion) -> None:
    from chatbridge_glm import hub_conversion

    word = work.target.lower()
    hub_conversion.convert(work, _BITS[word], embeddings=word.endswith("-qe"))


def _check_sat(work: Conversion) -> None:
    from chatbridge_glm import sat_conversion

    sat_conversion.check(work, *degree_and_bits(work.target))


def _convert_sat(work: Conversion) -> None:
    from chatbridge_glm import sat_conversion

    sat_conversion.convert(work, *degree_and_bits(work.target))


CONVERTERS = (
    Converter(
        "chatglm-int",
        "ChatGLM-6B into the published forms of 8 and 4 bits",
        takes=("chatglm",),
        makes=tuple(_BITS),
        convert=_convert_hub,
        check=_check_hub,
        folder=True,
    ),
    Converter(
        "glm-130b-tp",
        "GLM-130B into any number of shards, whole or in 8 or 4 bits",
        takes=("glm-130b",),
        makes=("tp*", "int8", "int4"),
        spoken=(
            "tp and the number of shards, as tp4",
            "the same with bits behind it, as tp4-int4",
            "int8 or int4 alone for as many shards as there are",
        ),
        convert=_convert_sat,
        check=_check_sat,
        folder=True,
    ),
)
