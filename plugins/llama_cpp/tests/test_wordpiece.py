"""WordPiece vocabularies (`tokenizer.ggml.model: bert`): the ids of Hugging Face's tokenizers for any text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from chatbridge_llama_cpp.model import LlamaModel
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from .conftest import model_with

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the", "The", "bridge", "over", "river", "it", "is", "old", "un", "a", "b", "c", "über", "uber", "e", "桥", "很",
    "老", "!", ",", ".", "[", "]", "'", "$", "|", "<", ">", "1", "2", "①", "ς", "ο", "°", "▁",
]  # fmt: skip
LATER = [
    "s", "ing", "d", "ge", "able", "aff", "over", "a", "b", "c", "e", "er", "1", "2", "°", "ο", "δ", "σ", "ς", "'", "▁",
]  # fmt: skip
CASES = {
    "uncased": {"lowercase": True},
    "cased": {"lowercase": False},
    "accents kept": {"lowercase": True, "strip_accents": False},
    "only accents": {"lowercase": False, "strip_accents": True},
}
FRAGMENTS = [
    *WORDS, *LATER, *SPECIALS, " ", "  ", "\t", "\n", "\u3000", "\u200b", "\ufffd", "\0", "É", "e\u0301", "İ", "Σ", "ﬁ",
    "ά", "が", "한", "ab" * 50, "ab" * 50 + "a", "🙂", "👩‍👩‍👧", "\u2028", "\x85",
    "the\U0002b820", "ΟΔΟΣ",
]  # fmt: skip


def as_old_as_the_tables(character: str) -> bool:
    """Whether the library's tables, of Unicode 8 of 2015, know what kind of character this is.

    Accents, punctuation and format characters that came or changed later are letters to it.
    """
    kind, kind_in_3_2 = unicodedata.category(character), unicodedata.ucd_3_2_0.category(character)
    return kind == kind_in_3_2 != "Cn" or (kind_in_3_2 == "Cn" and kind[0] in "LNS")


ANY = st.text(st.characters(exclude_categories=["Cs"]).filter(as_old_as_the_tables), max_size=30)
TEXTS = st.one_of(ANY, st.lists(st.one_of(st.sampled_from(FRAGMENTS), ANY), max_size=12).map("".join))


def wordpiece_metadata(vocabulary: list[str], **options: bool) -> dict[str, Any]:
    """`tokenizer.ggml.*` as llama.cpp's converter writes it: "▁" before what begins a word, nothing before the rest."""

    def text(token: str) -> str:
        return token if token in SPECIALS else token[2:] if token.startswith("##") else f"▁{token}"

    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [text(token) for token in vocabulary],
        "tokenizer.ggml.token_type": [3 if token in SPECIALS else 1 for token in vocabulary],
        "tokenizer.ggml.unknown_token_id": vocabulary.index("[UNK]"),
        "tokenizer.ggml.bos_token_id": vocabulary.index("[CLS]"),
        "tokenizer.ggml.seperator_token_id": vocabulary.index("[SEP]"),
    } | {f"tokenizer.ggml.normalizer.{key}": value for key, value in options.items()}


@dataclass(frozen=True)
class Pair:
    """The same vocabulary here and in the library."""

    model: LlamaModel
    library: Tokenizer


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    options = CASES[request.param]
    vocabulary = [*SPECIALS, *WORDS, *(f"##{piece}" for piece in LATER)]
    library = Tokenizer(WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    library.normalizer = BertNormalizer(**options)
    library.pre_tokenizer = BertPreTokenizer()
    model = model_with(tmp_path_factory.mktemp("wordpiece"), wordpiece_metadata(vocabulary, **options))
    yield Pair(model, library)
    model.close()


@given(text=TEXTS)
@settings(deadline=None)
@example(text="The unaffable Bridges, über it's old [CLS]!")
@example(text="桥很老 the\U0002b820, ΟΔΟΣ İs ÉÉ")
@example(text="ab" * 50 + " " + "ab" * 50 + "a")
def test_any_text_gives_the_librarys_ids(pair: Pair, text: str) -> None:
    for start in (True, False):
        ids = pair.model.tokenizer.encode(text, start=start)
        assert ids == pair.library.encode(text, add_special_tokens=False).ids


def test_words_come_back_with_blanks_before_them(pair: Pair) -> None:
    tokenizer = pair.model.tokenizer
    ids = tokenizer.encode("the bridges", start=True)
    assert tokenizer.decode(ids) == b" the bridges"


def test_no_text_becomes_a_control_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Even where a name has no brackets to cut at, and pieces of text join to it."""
    metadata = wordpiece_metadata([*SPECIALS, "the", "##n", "##d"])
    metadata["tokenizer.ggml.tokens"][3:5] = ["end", "▁stop"]
    model = model_with(tmp_path_factory.mktemp("forgeable"), metadata)
    tokenizer = model.tokenizer
    assert (tokenizer.special("end"), tokenizer.special("▁stop")) == (3, 4)
    assert tokenizer.special("[UNK]") is None  # stands for words that it does not know, and nothing else
    for text in ("stop", "theend", "the stop end", "[CLS]", "▁stop"):
        for start in (True, False):
            assert not tokenizer.controls & set(tokenizer.encode(text, start=start)), text
    assert tokenizer.encode("then", start=True) == [5, 6]
    model.close()
