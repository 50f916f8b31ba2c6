"""Tokenising takes a time that grows with the text, whatever the text is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chatbridge_llama_cpp.encoding import BYTE, NORMAL, UNKNOWN, Encoder, VocabularyEntry
from chatbridge_llama_cpp.greedy import Greedy
from chatbridge_llama_cpp.model import LlamaModel
from chatbridge_llama_cpp.unigram import Unigram
from chatbridge_llama_cpp.wordpiece import WordPiece

from chatbridge.testing import LONG_RUNS, byte_pair_metadata, fixtures, growth

from .conftest import model_with

PIECES = ("a", "aa", "a" * 16, "ab", "A", "7", "77", "▁", "▁▁", "▁" * 16, "汉", "<|", "<", "'", "\u0301", "e\u0301")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, random_model: LlamaModel) -> Iterator[dict[str, LlamaModel]]:
    """Vocabularies that llama.cpp itself cuts text for, with our corrections."""
    content = (fixtures() / "belle-bloom" / "hf" / "tokenizer.json").read_text(encoding="utf-8")
    byte_pairs = model_with(tmp_path_factory.mktemp("bpe"), byte_pair_metadata(content, "bloom"))
    normalised = model_with(tmp_path_factory.mktemp("nfc"), byte_pair_metadata(content, "qwen2"))
    yield {"byte pairs": byte_pairs, "normalised": normalised, "SentencePiece": random_model}
    byte_pairs.close()
    normalised.close()


@pytest.mark.parametrize("name", ["byte pairs", "normalised", "SentencePiece"])
@pytest.mark.parametrize("run", LONG_RUNS)
def test_a_longer_text_takes_no_more_for_each_character(models: dict[str, LlamaModel], name: str, run: str) -> None:
    assert growth(lambda text: models[name].tokenizer.encode(text, start=True), LONG_RUNS[run]) < 2.7


def entries(*pieces: str) -> list[VocabularyEntry]:
    """An unknown token, the 256 bytes, and these pieces."""
    found = [VocabularyEntry(0, "<unk>", 0.0, UNKNOWN)]
    found += [VocabularyEntry(1 + byte, f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    return found + [VocabularyEntry(257 + i, piece, -1.0 - i, NORMAL) for i, piece in enumerate(pieces)]


OURS: dict[str, Encoder] = {
    "Unigram": Unigram(entries(*PIECES), unknown=0, dummy_prefix=True, merge_blanks=False, charsmap=b""),
    "Unigram that merges": Unigram(entries(*PIECES), unknown=0, dummy_prefix=True, merge_blanks=True, charsmap=b""),
    "WordPiece": WordPiece(entries(*PIECES), unknown=0, lowercase=True, strip_accents=True),
    "WordPiece with accents": WordPiece(entries(*PIECES), unknown=0, lowercase=False, strip_accents=False),
    "World": Greedy({piece.encode(): i for i, piece in enumerate(PIECES)}, unknown=0),
}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("run", LONG_RUNS)
def test_nor_do_those_of_our_own(name: str, run: str) -> None:
    assert growth(lambda text: OURS[name].encode(text, start=True), LONG_RUNS[run]) < 2.7
