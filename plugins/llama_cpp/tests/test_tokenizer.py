"""The reference's ids for honest text, and never a control token for any text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from chatbridge_llama_cpp.model import LlamaModel
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from .conftest import SIZE, opened
from .convert import FIXTURES, bpe_metadata, model_metadata, random_weights, spm_metadata, write_gguf

ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
FORGED = st.lists(
    st.sampled_from(["</s>", "<s>", "<unk>", "</", "s>", "<", "/", "s", ">", " ", "a", "<0x0A>", "▁", "é"])
)


def model_with(folder: Path, tokenizer: dict[str, Any]) -> LlamaModel:
    size = SIZE | {"vocabulary": len(tokenizer["tokenizer.ggml.tokens"])}
    return opened(write_gguf(folder / "model.gguf", model_metadata(**size) | tokenizer, random_weights(**size)))


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LlamaModel, Tokenizer]]:
    """A published byte-level tokenizer, in llama.cpp and in the library."""
    content = (FIXTURES / "belle-tokenizer.json").read_text(encoding="utf-8")
    library = Tokenizer.from_str(content)
    library.encode_special_tokens = True
    model = model_with(tmp_path_factory.mktemp("bpe"), bpe_metadata(content, "bloom"))
    yield model, library
    model.close()


@pytest.fixture(scope="module")
def forgeable(
    tmp_path_factory: pytest.TempPathFactory, words: sentencepiece.SentencePieceProcessor
) -> Iterator[LlamaModel]:
    """A vocabulary whose pieces of text join to a control token's name, and a user-defined token."""
    metadata = spm_metadata(words)
    for at, (piece, kind) in enumerate((("</", 1), ("s>", 1), ("<s", 1), ("<tool>", 4)), 470):
        metadata["tokenizer.ggml.tokens"][at] = piece
        metadata["tokenizer.ggml.token_type"][at] = kind
        metadata["tokenizer.ggml.scores"][at] = 0.0
    model = model_with(tmp_path_factory.mktemp("forgeable"), metadata)
    yield model
    model.close()


def test_recorded_texts_give_sentencepieces_ids(random_model: LlamaModel) -> None:
    recorded = json.loads((FIXTURES / "tokenizer_cases.json").read_text(encoding="utf-8"))["llama"]
    for case in recorded:
        assert random_model.tokenizer.encode(case["text"], start=True) == case["sp_ids"], case["text"]
    assert len(recorded) > 5


@given(text=ANY)
@settings(max_examples=300, deadline=None)
@example(text="  two  blanks\n\n and a tab\t ")
@example(text="你好，世界！🙂👩‍👩‍👧")
def test_any_text_gives_sentencepieces_ids(
    random_model: LlamaModel, words: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    if "▁" in text:  # SentencePiece takes it for a blank of its own
        return
    assert random_model.tokenizer.encode(text, start=True) == words.encode(text)


@given(text=ANY)
@settings(max_examples=200, deadline=None)
@example(text="it'S I'LL 1234567 \n\n \r\n x")
def test_any_text_gives_the_librarys_ids(bpe: tuple[LlamaModel, Tokenizer], text: str) -> None:
    model, library = bpe
    for start in (True, False):
        ids = model.tokenizer.encode(text, start=start)
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert model.tokenizer.decode(ids).decode() == text


@given(parts=FORGED)
@settings(max_examples=300, deadline=None)
@example(parts=["</s>"] * 3)
@example(parts=["a</s>", "</", "s>"])
def test_no_text_becomes_a_control_token(forgeable: LlamaModel, parts: list[str]) -> None:
    text = "".join(parts)
    tokenizer = forgeable.tokenizer
    for start in (True, False):
        ids = tokenizer.encode(text, start=start)
        assert not {0, 1, 2} & set(ids)
        said = tokenizer.decode(ids)
        assert said == text.replace("▁", " ").encode() or (start and said == b" " + text.replace("▁", " ").encode())


def test_a_blank_comes_before_a_text_that_starts_and_nowhere_else(forgeable: LlamaModel) -> None:
    tokenizer = forgeable.tokenizer
    assert tokenizer.decode(tokenizer.encode("hello<tool>there", start=True)) == b" hello<tool>there"
    assert tokenizer.decode(tokenizer.encode("hello<tool>there", start=False)) == b"hello<tool>there"
    assert tokenizer.encode("", start=True) == []
    assert 473 in tokenizer.encode("hello<tool>there", start=False)
    assert tokenizer.special("<tool>") is None


def test_control_tokens_are_known_by_their_text(random_model: LlamaModel) -> None:
    tokenizer = random_model.tokenizer
    assert (tokenizer.special("<s>"), tokenizer.special("</s>")) == (1, 2)
    assert tokenizer.decode([1, 2]) == b""


def test_half_characters_become_question_marks(random_model: LlamaModel) -> None:
    tokenizer = random_model.tokenizer
    assert tokenizer.decode(tokenizer.encode("a\ud800b", start=False)) == b"a?b"
