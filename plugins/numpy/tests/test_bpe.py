"""Byte-level BPE: the ids of Hugging Face's tokenizers, for each way of cutting words, on any text there can be."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
import regex
from chatbridge_numpy.bpe import LETTERS as LETTER_OF
from chatbridge_numpy.bpe import words
from chatbridge_numpy.pre_tokenizers import ALIASES, PRE_TOKENIZERS, pre_tokenizer
from chatbridge_numpy.tokenizer import GgufTokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Punctuation, Sequence, Split

from chatbridge.testing import byte_pair_metadata, fixtures

Make = Callable[[dict[str, Any]], GgufTokenizer]

# As the models' own tokenizer.json have them; "default" as llama.cpp has it.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {
    "gpt-2": [GPT2],
    "llama-bpe": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ],
    "qwen2": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ],
    "tekken": [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
    "qwen35": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ],
    "gpt-4o": [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-\uD7FF]+", r"\p{N}"],
    "deepseek-v3": [
        r"\p{N}{1,3}",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
    "falcon": [r"[\p{P}$+<=>^`|~]+", GPT2, r"[0-9][0-9][0-9]"],
    "smollm": [r"\p{N}", GPT2],
    "bloom": [r" ?[^(\s|[.,!?…。，、।۔،])]+"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
}
PATTERNS["dbrx"] = PATTERNS["llama-bpe"]
# The list of letters is one of facts: the same for the library, which runs it by another engine.
_FIRST, _LETTERS, _SIGNS, _, _HAN, _DIGIT = PRE_TOKENIZERS["deepseek-llm"].patterns
PATTERNS["deepseek-llm"] = [_FIRST, _LETTERS, _SIGNS, r"\s+$", _HAN, _DIGIT]
NORMALISED = {"qwen2", "mpt", "command-r"}
WHOLE_WORDS = {"llama-bpe", "tekken"}
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]
LETTERS = "the fox'SstLlDd129١٢\n\r\t \u00a0\u3000\u2028.,!?(|)…。，<>_/|^éÉǅʰ你好🦊\u0301'ſ"
NEAR = st.text(st.sampled_from(LETTERS), max_size=60)
TEXTS = st.one_of(NEAR, st.text(st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=40))


def trained(pre: str) -> Tokenizer:
    """A small tokenizer that cuts words like that model's.

    It has learned from text that was not cut, so nearly every pair of neighbours is joined where no cut is between.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre in WHOLE_WORDS))
    tokenizer.pre_tokenizer = whole = ByteLevel(add_prefix_space=False, use_regex=False)
    rng = random.Random(1)
    corpus = ["".join(rng.choices(LETTERS, k=9)) for _ in range(3000)]
    trainer = trainers.BpeTrainer(vocab_size=2500, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    # Words that no row of merges makes.
    content = json.loads(tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {word: len(vocabulary) + i for i, word in enumerate(("Ġxsx", "tTt", "Ġ你好"))}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    if pre in NORMALISED:
        tokenizer.normalizer = normalizers.NFC()
    cuts = PATTERNS[ALIASES.get(pre, pre)]
    tokenizer.pre_tokenizer = Sequence([*(Split(Regex(p), "isolated") for p in cuts), whole])
    tokenizer.encode_special_tokens = True  # in text that people type they are text
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<tool>s", normalized=False)])
    return tokenizer


def normalised(text: str, pre: str) -> str:
    """What a tokenizer of that name reads of a text."""
    return unicodedata.normalize("NFC", text) if pre in NORMALISED else text


@pytest.fixture(scope="module", params=sorted({*PATTERNS, *NORMALISED}))
def both(request: pytest.FixtureRequest, tokenizer_of: Make) -> tuple[GgufTokenizer, Tokenizer, str]:
    """Our tokenizer and the library's, and the name of the pre-tokenizer."""
    library = trained(request.param)
    return tokenizer_of(byte_pair_metadata(library.to_str(), request.param)), library, request.param


def test_every_way_of_cutting_words_is_tested() -> None:
    assert set(PATTERNS) == set(PRE_TOKENIZERS)


def test_every_other_name_is_one_of_these() -> None:
    assert set(ALIASES.values()) <= set(PRE_TOKENIZERS)
    assert not set(ALIASES) & set(PRE_TOKENIZERS)
    assert pre_tokenizer("starcoder") is PRE_TOKENIZERS["smollm"]
    assert pre_tokenizer("none of these") is None


@pytest.fixture(scope="module")
def falcon(tokenizer_of: Make) -> tuple[GgufTokenizer, Tokenizer]:
    """Trained as Falcon was, whose file names no pattern for signs and digits but the library's own steps."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = Sequence([
        Punctuation("contiguous"), ByteLevel(add_prefix_space=False), Digits(individual_digits=False),
        Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ])  # fmt: skip
    rng = random.Random(1)
    corpus = [" ".join("".join(rng.choices(LETTERS, k=4)) for _ in range(5)) for _ in range(3000)]
    trainer = trainers.BpeTrainer(vocab_size=2500, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False)
    library.train_from_iterator(corpus, trainer)
    return tokenizer_of(byte_pair_metadata(library.to_str(), "falcon")), library


@given(text=TEXTS)
@settings(deadline=None)
@example(text="a  $12345, ``x`` ١٢ 7 8\n(9) 4 ½ ² 2½")
def test_falcons_ids_are_those_of_the_steps_in_its_file(falcon: tuple[GgufTokenizer, Tokenizer], text: str) -> None:
    ours, library = falcon
    assert ours.encode(text, start=True) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("pre", sorted(PATTERNS))
@given(text=TEXTS)
@settings(deadline=None)
@example(text="it'S I'LLama don'Tx he'll 1234567 ١٢٣ a!\n/b ÉÉa a^b (x \r\n \n  ")
@example(text="\x1c\x1d\x85\u180e\u200b\ufeff x")
def test_words_are_cut_as_in_the_library(pre: str, text: str) -> None:
    cuts = Sequence([Split(Regex(pattern), "isolated") for pattern in PATTERNS[pre]])
    ours = words(text, [regex.compile(pattern) for pattern in PRE_TOKENIZERS[pre].patterns])
    assert [word for word in ours if word] == [word for word, _ in cuts.pre_tokenize_str(text)]


@given(text=TEXTS)
@settings(deadline=None)
@example(text="a" * 200 + " xsx tTt")
@example(text="it'S I'LL 1234567 \n\n \r\n x<tool>s<tool>")
@example(text="\u1112\u1161\u11ab\u1100\u116e\u11a8 e\u0301 \u212b")
def test_any_text_gives_the_librarys_ids(both: tuple[GgufTokenizer, Tokenizer, str], text: str) -> None:
    ours, library, pre = both
    ids = ours.encode(text, start=True)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids).decode() == normalised(text, pre)


@given(texts=st.lists(st.one_of(NEAR, st.sampled_from([*SPECIALS, "<tool>", "<|im_", "end|>"]))))
@settings(deadline=None)
def test_text_never_becomes_a_control_token(both: tuple[GgufTokenizer, Tokenizer, str], texts: list[str]) -> None:
    ours, _, pre = both
    text = "".join(texts)
    ids = ours.encode(text, start=True)
    assert not set(ours.vocabulary.specials.values()) & set(ids)
    assert ours.decode(ids).decode() == normalised(text, pre)


@pytest.fixture(scope="module")
def without_some_bytes(tokenizer_of: Make) -> tuple[GgufTokenizer, Tokenizer]:
    """A vocabulary whose training text had neither a tabulator nor the first byte of 🦊, as SmolLM2 lacks some."""
    content = json.loads(trained("smollm").to_str())
    absent = [LETTER_OF[0xF0], LETTER_OF[ord("\t")]]
    model = content["model"]
    model["merges"] = [pair for pair in model["merges"] if not any(letter in "".join(pair) for letter in absent)]
    kept = [token for token in model["vocab"] if not any(letter in token for letter in absent)]
    over_a_gap = ["!", LETTER_OF[0x9F]]  # the second byte of 🦊
    model["merges"].append(over_a_gap)
    model["vocab"] = {token: number for number, token in enumerate([*kept, "".join(over_a_gap)])}
    content["added_tokens"] = []
    library = Tokenizer.from_str(json.dumps(content))
    return tokenizer_of(byte_pair_metadata(library.to_str(), "smollm")), library


@given(text=TEXTS)
@settings(deadline=None)
@example(text="a\tb 🦊🦊 \t")
@example(text="!🦊")
def test_bytes_without_a_token_are_left_out_as_in_the_library(
    without_some_bytes: tuple[GgufTokenizer, Tokenizer], text: str
) -> None:
    ours, library = without_some_bytes
    ids = ours.encode(text, start=True)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == bytes(byte for byte in text.encode() if byte not in (0xF0, ord("\t")))


def test_a_vocabulary_says_that_it_lacks_bytes(without_some_bytes: tuple[GgufTokenizer, Tokenizer]) -> None:
    assert "without 2 of the 256 bytes" in without_some_bytes[0].kind


def test_control_tokens_are_known_by_their_text(both: tuple[GgufTokenizer, Tokenizer, str]) -> None:
    ours, library, _ = both
    assert {text: ours.special(text) for text in SPECIALS} == {text: library.token_to_id(text) for text in SPECIALS}
    assert ours.special("<tool>") is None
    assert ours.decode([ours.special(text) for text in SPECIALS]) == b""
    assert set(ours.vocabulary.eos) == {library.token_to_id(text) for text in ("<|end_of_text|>", "<|im_end|>")}


def test_only_llama_3_and_models_like_it_want_a_bos(tokenizer_of: Make) -> None:
    content = trained("gpt-2").to_str()
    for pre, wanted in (("llama-bpe", True), ("llama3", True), ("tekken", True), ("qwen2", False), ("gpt-2", False)):
        metadata = byte_pair_metadata(content, pre)
        metadata["tokenizer.ggml.bos_token_id"] = metadata["tokenizer.ggml.tokens"].index("<|begin_of_text|>")
        assert tokenizer_of(metadata).vocabulary.add_bos is wanted


@given(text=TEXTS)
@settings(deadline=None)
@example(text="你好！今天过得怎么样？ The fox reads.")
def test_a_published_byte_level_tokenizer(belle: tuple[GgufTokenizer, Tokenizer], text: str) -> None:
    ours, library = belle
    assert ours.encode(text, start=True) == library.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def belle(tokenizer_of: Make) -> tuple[GgufTokenizer, Tokenizer]:
    content = (fixtures() / "belle-bloom" / "hf" / "tokenizer.json").read_text(encoding="utf-8")
    library = Tokenizer.from_str(content)
    library.encode_special_tokens = True
    return tokenizer_of(byte_pair_metadata(content, "bloom")), library
