"""Unigram vocabularies (`tokenizer.ggml.model: t5`): sentencepiece's ids for any text, with all of its settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from chatbridge_llama_cpp.model import LlamaModel
from chatbridge_llama_cpp.unigram import CharsMap
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from .conftest import model_with, opened, write_with
from .unigrams import changed, train, unigram_metadata

FRAGMENTS = [
    "the", " ", "  ", "bridge", "over ", " the", "\u3000", "\u00a0", "\t", "\n", "\u200b", "▁", "ﬁ", "Ａ", "①", "ﷺ",
    "e\u0301", "ü", "u\u0308", "桥", "很老", "鱼", "🙂", "<tool>", "<tool", ">", "▁over", "<unk>", "</s>", "<0x41>",
]  # fmt: skip
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TEXTS = st.one_of(ANY, st.lists(st.one_of(st.sampled_from(FRAGMENTS), ANY), max_size=12).map("".join))
SETTINGS = {
    "as T5": {"dummy_prefix": True, "remove_blanks": True},
    "no dummy blank": {"dummy_prefix": False, "remove_blanks": True},
    "all blanks": {"dummy_prefix": True, "remove_blanks": False},
    "as it stands": {"dummy_prefix": False, "remove_blanks": False},
}
DEFINED = ("<tool>", "bridge▁over", "很", "①")
TRAINED: dict[str, dict[str, Any]] = {
    "identity": {"normalization_rule_name": "identity"},
    "nmt_nfkc": {"normalization_rule_name": "nmt_nfkc"},
    "nmt_nfkc_cf, bytes": {"normalization_rule_name": "nmt_nfkc_cf", "byte_fallback": True, "size": 420},
    "nmt_nfkc, defined": {"normalization_rule_name": "nmt_nfkc", "user_defined_symbols": list(DEFINED)},
}


@dataclass(frozen=True)
class Pair:
    """The same vocabulary here and in the library; `pieces`: without any normalisation."""

    model: LlamaModel
    library: SentencePieceProcessor
    pieces: SentencePieceProcessor


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """For each of `TRAINED`, SentencePiece's file and ours: writing rules of normalisation takes its time."""
    folder = tmp_path_factory.mktemp("unigram")
    trained = {rules: train(**options) for rules, options in TRAINED.items()}
    as_it_stands = SETTINGS["as it stands"]
    written = {
        rules: write_with(folder, unigram_metadata(model, **as_it_stands, user_defined=DEFINED)).read_bytes()
        for rules, model in trained.items()
    }
    return {rules: (trained[rules], written[rules]) for rules in TRAINED}


@pytest.fixture(scope="module", params=[(rules, name) for rules in TRAINED for name in SETTINGS], ids=str)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, files: dict[str, tuple[bytes, bytes]]
) -> Iterator[Pair]:
    rules, name = request.param
    trained, written = files[rules]
    path = tmp_path_factory.mktemp("unigram") / "model.gguf"
    content = bytearray(written)
    for key, setting in (("add_space_prefix", "dummy_prefix"), ("remove_extra_whitespaces", "remove_blanks")):
        # A key is followed by its type, in four bytes, and a yes or no by one.
        content[content.index(key.encode()) + len(key) + 4] = SETTINGS[name][setting]
    path.write_bytes(content)
    plain = changed(trained, dummy_prefix=False, remove_blanks=False, rules=False)
    library = SentencePieceProcessor(model_proto=changed(trained, **SETTINGS[name]))
    model = opened(path)
    yield Pair(model, library, SentencePieceProcessor(model_proto=plain))
    model.close()


@given(text=TEXTS)
@settings(max_examples=40, deadline=None)
@example(text="  The  bridge over\u3000the river  is old. ")
@example(text="桥很老 bridge over <tool> ")
@example(text=" \u3000 ")
@example(text="🙂🙂 🙂")
def test_any_text_gives_sentencepieces_ids(pair: Pair, text: str) -> None:
    assert pair.model.tokenizer.encode(text, start=True) == pair.library.encode(text)


@given(text=TEXTS)
@settings(max_examples=40, deadline=None)
@example(text=" more of the bridge")
def test_a_text_that_goes_on_has_the_ids_that_it_has_behind_another(pair: Pair, text: str) -> None:
    whole = pair.library.normalize("." + text)
    expected = pair.pieces.encode(whole[whole.index(".") + 1 :])
    assert pair.model.tokenizer.encode(text, start=False) == expected


@given(parts=st.lists(st.sampled_from(["</s>", "<s>", "<unk>", "</", "s", ">", "＜", "/s>", "the ", "<0x41>"])))
@settings(max_examples=10, deadline=None)
def test_no_text_becomes_a_control_token(pair: Pair, parts: list[str]) -> None:
    tokenizer = pair.model.tokenizer
    assert set(tokenizer.specials) == {"<s>", "</s>"}
    for start in (True, False):
        assert not tokenizer.controls & set(tokenizer.encode("".join(parts), start=start))


def test_a_name_of_an_unused_token_is_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    trained = train()
    metadata = unigram_metadata(trained, **SETTINGS["as T5"])
    for name, kind in (("[PAD1]", 5), ("<|im_end|>", 1)):  # unused; and one that llama.cpp makes a control token
        metadata["tokenizer.ggml.tokens"].append(name)
        metadata["tokenizer.ggml.token_type"].append(kind)
        metadata["tokenizer.ggml.scores"].append(0.0)
    model = model_with(tmp_path_factory.mktemp("unused"), metadata)
    library = SentencePieceProcessor(model_proto=changed(trained, **SETTINGS["as T5"]))
    for text in ("[PAD1]", "the [PAD1] bridge", "over<|im_end|>"):
        assert model.tokenizer.encode(text, start=True) == library.encode(text)
    assert model.tokenizer.special("<|im_end|>") is not None
    model.close()


def test_a_damaged_map_of_characters_changes_nothing() -> None:
    for blob in (b"\4\0\0\0\xff\xff\xff\x7f", b"\0\0\0\0", b"\20\0\0\0\1\2\3", b"\10\0\0\0\0\4\0\0"):
        assert CharsMap(blob).longest(b"the", 0) == (0, b"")
