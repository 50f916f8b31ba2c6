"""Stop texts that people choose: found as by hand, and at a cost that does not depend on what they are."""

from __future__ import annotations

from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chatbridge.engine.detokenizer import StopTexts

FEW = st.text("ab", max_size=6)


@given(st.lists(FEW, max_size=4), st.lists(FEW, max_size=8))
def test_the_first_complete_one_is_found_wherever_the_text_is_cut(stops: list[str], pieces: list[str]) -> None:
    whole, come = "".join(pieces), 0
    ends = [(end, end - len(stop)) for stop in stops if stop for end in _ends(whole, stop)]
    expected = min(ends)[1] if ends else None
    found: int | None = None
    stop_texts = StopTexts(stops)
    for piece in pieces:
        if (at := stop_texts.find(piece)) is not None:
            found = come + at
            break
        come += len(piece)
        beginnings = [n for stop in stops for n in range(1, len(stop)) if whole[:come].endswith(stop[:n])]
        assert stop_texts.begun == max(beginnings, default=0)
    assert found == expected


def _ends(text: str, stop: str) -> list[int]:
    return [end for end in range(len(stop), len(text) + 1) if text[end - len(stop) : end] == stop]


def test_the_work_is_linear_also_for_texts_that_nearly_match() -> None:
    assert _comparisons(512) < 3 * _comparisons(256) < 9 * _comparisons(128)


def _comparisons(size: int) -> int:
    """How many characters are compared for an answer of `size` times "a", with a stop text of half of that and a b."""
    counted = 0

    class Char(str):
        def __eq__(self, other: Any) -> bool:
            nonlocal counted
            counted += 1
            return str.__eq__(self, other)

        def __ne__(self, other: Any) -> bool:
            return not self == other

        __hash__ = str.__hash__

    class Answer(str):
        def __iter__(self) -> Any:
            return map(Char, str.__iter__(self))

    assert StopTexts(["a" * (size // 2) + "b"]).find(Answer("a" * size)) is None
    assert counted >= size
    return counted


def test_all_short_texts_are_found_in_all_answers_of_eight_letters() -> None:
    answers = ["".join(letters) for letters in product("ab", repeat=8)]
    for length in range(1, 6):
        for stop in map("".join, product("ab", repeat=length)):
            for answer in answers:
                at = answer.find(stop)
                assert StopTexts([stop]).find(answer) == (None if at < 0 else at), (stop, answer)


def test_what_comes_after_one_was_found_is_looked_at_anew() -> None:
    texts = StopTexts(["ab"])
    assert (texts.find("xab"), texts.begun) == (1, 0)
    assert (texts.find("b"), texts.find("ab")) == (None, 0)
