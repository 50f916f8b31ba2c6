"""Tokenising takes a time that grows with the text, whatever the text is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import regex
import sentencepiece
from chatbridge_numpy.bpe import words
from chatbridge_numpy.pre_tokenizers import PRE_TOKENIZERS
from chatbridge_numpy.tokenizer import GgufTokenizer

from chatbridge.testing import LONG_RUNS, byte_pair_metadata, fixtures, growth, sentencepiece_metadata

Make = Callable[[Mapping[str, Any]], GgufTokenizer]


@pytest.fixture(scope="module")
def tokenizers(
    tokenizer_of: Make, words: sentencepiece.SentencePieceProcessor, chinese: sentencepiece.SentencePieceProcessor
) -> dict[str, GgufTokenizer]:
    """Two byte-level ones, of which one normalises, and two of SentencePiece's."""
    content = (fixtures() / "belle-bloom" / "hf" / "tokenizer.json").read_text(encoding="utf-8")
    return {
        "byte pairs": tokenizer_of(byte_pair_metadata(content, "bloom")),
        "normalised": tokenizer_of(byte_pair_metadata(content, "qwen2")),
        "llama": tokenizer_of(sentencepiece_metadata(words)),
        "chinese": tokenizer_of(sentencepiece_metadata(chinese)),
    }


@pytest.mark.parametrize("name", ["byte pairs", "normalised", "llama", "chinese"])
@pytest.mark.parametrize("run", LONG_RUNS)
def test_a_longer_text_takes_no_more_for_each_character(
    tokenizers: dict[str, GgufTokenizer], name: str, run: str
) -> None:
    assert growth(lambda text: tokenizers[name].encode(text, start=True), LONG_RUNS[run]) < 2.7


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@pytest.mark.parametrize("run", LONG_RUNS)
def test_nor_does_cutting_it_into_words(pre: str, run: str) -> None:
    patterns = [regex.compile(pattern) for pattern in PRE_TOKENIZERS[pre].patterns]
    assert growth(lambda text: words(text, patterns), LONG_RUNS[run]) < 2.7
