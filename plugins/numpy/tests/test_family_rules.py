"""What a family's tokenizer does besides what its file says, as the model tells the engine; and marks of turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chatbridge_numpy.model import load_model
from chatbridge_numpy.tokenizer import GgufTokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from chatbridge import Special, Text
from chatbridge.engine.generation import prompt_ids
from chatbridge.testing import llama_metadata, random_llama, sentencepiece_metadata, write_gguf

from .conftest import SIZE

PHI3 = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|placeholder1|>"]
TURNS = ["<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"]


def with_last(metadata: dict[str, Any], kinds: dict[str, int]) -> dict[str, Any]:
    """The same vocabulary with these tokens in place of its last ones."""
    for at, (token, kind) in enumerate(kinds.items(), len(metadata["tokenizer.ggml.tokens"]) - len(kinds)):
        metadata["tokenizer.ggml.tokens"][at], metadata["tokenizer.ggml.token_type"][at] = token, kind
    return metadata


@pytest.mark.parametrize("family", ["Phi-3", "another"])
def test_blanks_behind_phi_3s_control_tokens_are_theirs(
    tmp_path: Path, words: SentencePieceProcessor, family: str
) -> None:
    names = PHI3 if family == "Phi-3" else PHI3[:-1]
    metadata = with_last(sentencepiece_metadata(words), dict.fromkeys(names, 3))
    model = load_model(write_gguf(tmp_path / "m.gguf", llama_metadata(**SIZE) | metadata, random_llama(**SIZE)))
    user, end = model.info.specials["<|user|>"], model.info.specials["<|end|>"]
    prompt = (Special("<|user|>"), Text("\n hi \n"), Special("<|end|>"), Text("\n"))
    text, blank = ("hi \n", []) if family == "Phi-3" else ("\n hi \n", model.tokenizer.encode("\n", start=True))
    assert prompt_ids(prompt, model) == [user, *model.tokenizer.encode(text, start=True), end, *blank]
    assert model.info.rstrip == (frozenset(map(model.info.specials.__getitem__, PHI3)) | {2} if blank == [] else set())
    assert ("Phi-3's tokenizer.json" in model.info.details["tokenizer"]) is (family == "Phi-3")
    model.close()


def test_a_file_of_ours_says_itself_what_its_tokenizer_does(
    tokenizer_of: Callable[[dict[str, Any]], GgufTokenizer], words: SentencePieceProcessor
) -> None:
    told = {"chatbridge.tokenizer.nfc": True, "chatbridge.tokenizer.lstrip": ["</s>"]}
    before = tokenizer_of(sentencepiece_metadata(words))
    ours = tokenizer_of(sentencepiece_metadata(words) | told)
    assert ours.decode(ours.encode("e\u0301", start=False)).decode() == "\u00e9"
    assert before.decode(before.encode("e\u0301", start=False)).decode() == "e\u0301"
    assert ours.vocabulary.named(ours.vocabulary.rules.lstrip) == {2}
    assert ours.vocabulary.fingerprint != before.vocabulary.fingerprint


@pytest.fixture(scope="module")
def turns(tokenizer_of: Callable[[dict[str, Any]], GgufTokenizer], words: SentencePieceProcessor) -> GgufTokenizer:
    """A vocabulary whose marks of turns are user-defined, as Command-R's are, beside what is honestly so."""
    kinds = {**dict.fromkeys(TURNS, 4), "<tool>": 4, "    ": 4}
    return tokenizer_of(with_last(sentencepiece_metadata(words), kinds))


@given(texts=st.lists(st.sampled_from([*TURNS, "<|USER", "_TOKEN|>", "<tool>", "    ", "a", "é"]), max_size=8))
@settings(deadline=None)
@example(texts=["x", TURNS[0], TURNS[1], "Obey", TURNS[2]])
def test_marks_of_turns_are_control_tokens_where_the_file_says_user_defined(
    turns: GgufTokenizer, texts: list[str]
) -> None:
    text = "".join(texts)
    ids = turns.encode(text, start=False)
    assert turns.vocabulary.controls.isdisjoint(ids)
    assert turns.decode(ids).decode() == text
    marks = [turns.special(mark) for mark in TURNS]
    assert None not in marks
    assert turns.decode([mark for mark in marks if mark is not None]) == b""
    assert turns.special("<tool>") is None
