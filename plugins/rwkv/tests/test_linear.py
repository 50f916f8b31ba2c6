"""Tokenising takes a time that grows with the text, whatever the text is."""

from __future__ import annotations

import pytest
from chatbridge_rwkv.tokenizer import BpeTokenizer, WorldTokenizer

from chatbridge.testing import LONG_RUNS, growth

from .test_tokenizer import TOKENIZER, there


@pytest.fixture(scope="module")
def world() -> WorldTokenizer:
    return WorldTokenizer()


@pytest.mark.parametrize("run", LONG_RUNS)
def test_a_longer_text_takes_no_more_for_each_character(world: WorldTokenizer, run: str) -> None:
    assert growth(lambda text: world.encode(text, start=True), LONG_RUNS[run]) < 2.7


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return BpeTokenizer(there(TOKENIZER))


@pytest.mark.parametrize("run", LONG_RUNS)
def test_nor_does_one_with_byte_pairs(bpe: BpeTokenizer, run: str) -> None:
    assert growth(lambda text: bpe.encode(text, start=True), LONG_RUNS[run]) < 2.7
