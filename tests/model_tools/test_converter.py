"""What a plugin's converter says of itself: words for what it reads and makes, and names of what it may be given."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge import Converter
from chatbridge.model_tools.builtin import CONVERTERS

GIVEN: dict[str, Any] = {
    "name": "shrink",
    "summary": "makes it small",
    "takes": ("gguf",),
    "makes": ("tiny*",),
    "convert": print,
}


@pytest.mark.parametrize("wrong", [{"takes": "gguf"}, {"makes": ()}, {"options": "parts"}], ids=str)
def test_words_that_are_no_tuple_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Converter 'shrink': takes, makes and options are tuples of words"):
        Converter(**(GIVEN | wrong))


def test_a_star_stands_for_any_characters_and_options_for_none_unless_named() -> None:
    made = Converter(**GIVEN)
    assert made.writes("TINY3")
    assert not made.writes("huge")
    assert made.options == ()


def test_nothing_is_made_twice_of_the_same() -> None:
    ways = [(take, make) for one in CONVERTERS for take in one.takes for make in one.makes]
    assert len(ways) == len(set(ways))
