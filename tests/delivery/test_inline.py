"""What is formatted in a line is found as one regular expression would find it, in a time that grows with the line."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from chatbridge.delivery.inline import formats

SPECIFIED = re.compile(
    r"(?<![`\\])(?P<tick>```|``|`)(?!`)(?P<code>[^\n]+?)(?<!`)(?P=tick)(?!`)"
    r"|(?<![*_~|\\])(?P<mark>\*\*\*|\*\*|__|~~|\|\|)(?=[^\s*_~|])(?P<marked>[^\n]*?[^\s*_~|\\])(?P=mark)"
    r"|(?P<picture>!?)(?P<link>\[[^\]\n]*\]\([^)\s]+\))"
)
"""What `formats` has to find; it takes the square of a line's length where marks are opened and never closed."""

pieces = st.sampled_from([*"`*_~|[]()!\\ab 汉\t", "``", "```", "**", "***", "__", "~~", "||", "](", "[a](b)", "**a**"])


@given(st.lists(pieces, max_size=40).map("".join))
def test_all_that_is_formatted_is_found(line: str) -> None:
    expected = [
        (match.start(), match.end(), match["tick"] or match["mark"] or "", match["code"] or match["marked"])
        if not match["link"]
        else (match.start(), match.end(), "", match["link"])
        for match in SPECIFIED.finditer(line)
    ]
    assert [(found.start, found.end, found.mark, found.words) for found in formats(line)] == expected
