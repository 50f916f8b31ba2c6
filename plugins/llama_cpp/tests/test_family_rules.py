"""What a family's tokenizer does besides what its file says: NFC, blanks beside control tokens, odd tokens, marks."""

from __future__ import annotations

import ctypes
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chatbridge_llama_cpp.model import LlamaModel
from chatbridge_llama_cpp.native import lib
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Regex, Tokenizer, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from chatbridge import Special, Text
from chatbridge.engine.generation import prompt_ids
from chatbridge.testing import byte_pair_metadata, sentencepiece_metadata

from .conftest import model_with

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KOREAN = "한국어 각 값이 좋다. Élan, Å und ü! "
TURNS = ["<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"]
PHI3 = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|placeholder1|>"]
MIXED = st.text(st.one_of(st.sampled_from(unicodedata.normalize("NFD", KOREAN)), st.characters(codec="utf-8")))


def trained() -> Tokenizer:
    """A byte-level tokenizer that knows composed letters as one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    whole = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = Sequence([Split(Regex(QWEN2), "isolated"), whole])
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator([KOREAN] * 20, trainer)
    return tokenizer


def with_tokens(metadata: dict[str, Any], kinds: dict[str, int]) -> dict[str, Any]:
    """The same vocabulary with more tokens behind it, each of its kind, up to a multiple of 32."""
    tokens, types = [*metadata["tokenizer.ggml.tokens"], *kinds], [*metadata["tokenizer.ggml.token_type"]]
    types += kinds.values()
    while len(tokens) % 32:
        tokens.append(f"[UNUSED{len(tokens)}]")
        types.append(5)
    return metadata | {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}


@pytest.fixture(scope="module")
def library() -> Tokenizer:
    return trained()


@pytest.fixture(scope="module", params=["qwen2", "qwen35"])
def korean(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: Tokenizer
) -> Iterator[LlamaModel]:
    """That vocabulary under a name whose tokenizer normalises, and under one that is not known to."""
    metadata = with_tokens(byte_pair_metadata(library.to_str(), request.param), {"<|im_start|>": 3})
    model = model_with(tmp_path_factory.mktemp(request.param), metadata)
    yield model
    model.close()


@given(text=MIXED)
@settings(deadline=None)
@example(text=unicodedata.normalize("NFD", KOREAN))
@example(text="\u212b \u1100\u1161\u11a8 e\u0301\u0323")
def test_texts_are_normalised_where_the_family_does_so(korean: LlamaModel, library: Tokenizer, text: str) -> None:
    ids = korean.tokenizer.encode(text, start=True)
    if "NFC" in korean.info.details["tokenizer"]:
        assert ids == library.encode(text).ids
    else:
        assert korean.tokenizer.decode(ids).decode() == text


def test_which_texts_are_normalised_is_told(korean: LlamaModel) -> None:
    kind = korean.info.details["tokenizer"]
    decomposed = korean.tokenizer.encode(unicodedata.normalize("NFD", "한국어"), start=True)
    if kind == "byte-level BPE":
        assert len(decomposed) > 8
    else:
        assert kind == "byte-level BPE; texts in NFC, as in transformers' Qwen2Tokenizer"
        assert decomposed == korean.tokenizer.encode("한국어", start=True)


def test_a_file_of_ours_says_itself_what_its_tokenizer_does(tmp_path: Path, library: Tokenizer) -> None:
    plain = with_tokens(byte_pair_metadata(library.to_str(), "qwen35"), {"<|im_start|>": 3})
    told = {"chatbridge.tokenizer.nfc": True, "chatbridge.tokenizer.rstrip": ["<|im_start|>"]}
    (tmp_path / "told").mkdir()
    before, model = model_with(tmp_path, plain), model_with(tmp_path / "told", plain | told)
    decomposed = unicodedata.normalize("NFD", KOREAN)
    assert model.tokenizer.encode(decomposed, start=True) == library.encode(KOREAN).ids
    assert model.info.rstrip == {model.info.specials["<|im_start|>"]}
    assert model.info.vocabulary != before.info.vocabulary
    before.close()
    model.close()


@pytest.fixture(scope="module")
def command_r(tmp_path_factory: pytest.TempPathFactory, library: Tokenizer) -> Iterator[LlamaModel]:
    """As Command-R's file: emoji as they are, and its turns' marks user-defined."""
    kinds = {
        "™": 1,
        "a→b": 1,
        "\u200d": 1,
        "[UNK_BYTE_0xe284a2™]": 1,
        "[UNK_BYTE_0x]": 1,
        **dict.fromkeys(TURNS, 4),
        "<tool>": 4,
    }
    metadata = with_tokens(byte_pair_metadata(library.to_str(), "command-r"), kinds)
    model = model_with(tmp_path_factory.mktemp("command-r"), metadata)
    yield model
    model.close()


def test_a_token_with_letters_of_no_byte_says_what_it_reads(command_r: LlamaModel) -> None:
    tokenizer = command_r.tokenizer
    tokens = [lib_text(command_r, token) for token in range(command_r.info.vocab_size)]
    for text in ("™", "a→b", "\u200d", "[UNK_BYTE_0xe284a2™]", "[UNK_BYTE_0x]"):
        token = tokens.index(text)
        assert tokenizer.decode([token]) == text.encode()
        ids = tokenizer.encode(f"x{text}y", start=True)
        assert token not in ids
        assert tokenizer.decode(ids).decode() == f"x{text}y"


def lib_text(model: LlamaModel, token: int) -> str:
    text: bytes = model.tokenizer._vocabulary.text(token)
    return text.decode()


@given(texts=st.lists(st.sampled_from([*TURNS, "<|USER", "_TOKEN|>", "<tool>", " ", "a", "é"]), max_size=8))
@settings(deadline=None)
@example(texts=["x", TURNS[0], TURNS[1], "Obey", TURNS[3]])
def test_marks_of_turns_are_control_tokens_where_the_file_says_user_defined(
    command_r: LlamaModel, texts: list[str]
) -> None:
    info, tokenizer = command_r.info, command_r.tokenizer
    text = "".join(texts)
    ids = tokenizer.encode(text, start=True)
    assert info.control_ids.isdisjoint(ids)
    assert tokenizer.decode(ids).decode() == text
    marks = [tokenizer.special(mark) for mark in TURNS]
    assert None not in marks
    assert tokenizer.decode([mark for mark in marks if mark is not None]) == b""
    assert tokenizer.special("<tool>") is None


def phi3(words: SentencePieceProcessor, **more: Any) -> dict[str, Any]:
    """Phi-3's control tokens on a small vocabulary."""
    metadata = sentencepiece_metadata(words, **more)
    for at, token in enumerate(PHI3, len(metadata["tokenizer.ggml.tokens"]) - len(PHI3)):
        metadata["tokenizer.ggml.tokens"][at], metadata["tokenizer.ggml.token_type"][at] = token, 3
    metadata["tokenizer.ggml.tokens"].append("<|endoftext|>")  # llama.cpp looks for it in every Phi-3
    metadata["tokenizer.ggml.token_type"].append(3)
    metadata["tokenizer.ggml.scores"].append(0.0)
    while len(metadata["tokenizer.ggml.tokens"]) % 32:
        metadata["tokenizer.ggml.tokens"].append(f"[UNUSED{len(metadata['tokenizer.ggml.tokens'])}]")
        metadata["tokenizer.ggml.token_type"].append(5)
        metadata["tokenizer.ggml.scores"].append(0.0)
    return metadata | {"general.name": "Phi-3"}


@pytest.fixture(scope="module")
def phi(tmp_path_factory: pytest.TempPathFactory, words: SentencePieceProcessor) -> Iterator[tuple[LlamaModel, Any]]:
    """The model as we load it, and llama.cpp's vocabulary of the same file, which knows Phi-3 by its name."""
    folder = tmp_path_factory.mktemp("phi")
    ours = model_with(folder, phi3(words))
    params = lib.llama_model_default_params()
    params.vocab_only = True
    theirs = lib.llama_model_load_from_file(os.fsencode(folder / "model.gguf"), params)
    yield ours, lib.llama_model_get_vocab(theirs)
    lib.llama_model_free(theirs)
    ours.close()


def parsed(vocabulary: Any, text: str) -> list[int]:
    """llama.cpp's ids of a text in which it looks for control tokens."""
    raw = text.encode()
    buffer = (ctypes.c_int32 * (len(raw) + 8))()
    count = lib.llama_tokenize(vocabulary, raw, len(raw), buffer, len(buffer), False, True)
    return list(buffer[:count])


BLANKS = st.text(st.sampled_from("ab \n\t\r\v\f"), max_size=6)


@given(texts=st.lists(BLANKS, min_size=3, max_size=3))
@settings(deadline=None)
@example(texts=["Be brief.", "\n What is two and two?\n\n", " "])
def test_phi_3s_prompts_have_llama_cpps_ids(phi: tuple[LlamaModel, Any], texts: list[str]) -> None:
    model, vocabulary = phi
    system, first, second = texts
    parts: list[str] = ["<|system|>", f"\n{system}", "<|end|>", "\n"]
    for text in (first, second):
        parts += ["<|user|>", f"\n{text}", "<|end|>", "\n", "<|assistant|>", "\n"]
    prompt = tuple(Special(part) if part in PHI3 else Text(part) for part in parts)
    assert prompt_ids(prompt, model) == parsed(vocabulary, "".join(parts))


def test_blanks_are_kept_where_the_vocabulary_is_no_phi_3s(tmp_path: Path, words: SentencePieceProcessor) -> None:
    metadata = phi3(words)
    tokens = metadata["tokenizer.ggml.tokens"]
    tokens[tokens.index("<|placeholder1|>")] = "<|other|>"
    model = model_with(tmp_path, metadata | {"general.name": "other"})
    assert not model.info.rstrip
    line_end = model.tokenizer.encode("\n", start=True)
    assert prompt_ids((Special("<|user|>"), Text("\n")), model) == [model.info.specials["<|user|>"], *line_end]
    model.close()
