"""Rows that a model can't take are told in words, whoever made them."""

from __future__ import annotations

import pytest

from chatbridge import ModelInfo, Row, check_rows
from chatbridge.testing import ToyModel


def row(before: int, *tokens: int) -> Row:
    state = ToyModel().new_state()
    state.consume([5] * before)
    return Row(state, tokens, None)


INFO = ToyModel(context_length=10).info
UNTIL = ToyModel(context_length=10, bidirectional=True).info
assert UNTIL.bidirectional_until is not None
END = UNTIL.bidirectional_until


@pytest.mark.parametrize(
    ("info", "fine"),
    [
        (INFO, row(0, *[5] * 10)),
        (INFO, row(9, 5)),
        (INFO, row(0, 0, INFO.vocab_size - 1)),
        (UNTIL, row(0, 5, END)),
        (UNTIL, row(2, 5)),
    ],
)
def test_a_row_that_just_fits_is_taken(info: ModelInfo, fine: Row) -> None:
    check_rows([fine], info)


@pytest.mark.parametrize(
    ("info", "bad", "words"),
    [
        (INFO, row(3), "0 tokens after 3"),
        (INFO, row(0, *[5] * 11), "the context of 10"),
        (INFO, row(10, 5), "the context of 10"),
        (INFO, row(0, 5, -1), "outside the vocabulary"),
        (INFO, row(0, INFO.vocab_size, 5), "outside the vocabulary"),
        (UNTIL, row(0, 5), "the first row"),
    ],
)
def test_one_that_does_not_fit_is_refused_beside_good_ones(info: ModelInfo, bad: Row, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_rows([row(2, 5), bad], info)
