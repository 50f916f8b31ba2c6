"""How much a worker's tokenised texts are taken to need: never less than they do."""

from __future__ import annotations

import sys

import pytest

from chatbridge.prompts.segments import Special, Text
from chatbridge.worker.__main__ import _size


@pytest.mark.parametrize("char", ["a", "é", "中", "🙂"])
@pytest.mark.parametrize("length", [1, 1_000, 100_000])
def test_a_remembered_text_takes_no_more_than_it_is_counted_for(char: str, length: int) -> None:
    prompt = (Special("bos"), *(Text(char * length) for _ in range(3)))
    ids = tuple(range(1_000, 1_000 + length))
    texts = sum(sys.getsizeof(part.text) for part in prompt if isinstance(part, Text))
    assert texts + sys.getsizeof(ids) + sum(map(sys.getsizeof, ids)) <= _size(prompt, ids)
