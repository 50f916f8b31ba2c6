"""The reference's ids for honest text, and never a control token for any text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chatbridge_llama_cpp.model import LlamaModel
from chatbridge_llama_cpp.native_encoder import NativeEncoder, SentencePiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from chatbridge.testing import byte_pair_metadata, fixtures, sentencepiece_metadata

from .architectures import VOCABULARY
from .conftest import RECORDS, model_with
from .unigrams import changed, train

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
FORGED = st.lists(
    st.sampled_from(
        ["</s>", "<s>", "<unk>", "</", "s>", "<", "/", "s", ">", " ", "a", "<0x0A>", "▁", "é", "[PAD7]", "<un", "k>"]
    )
)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LlamaModel, Tokenizer]]:
    """A published byte-level tokenizer, in llama.cpp and in the library."""
    content = (fixtures() / "belle-bloom" / "hf" / "tokenizer.json").read_text(encoding="utf-8")
    library = Tokenizer.from_str(content)
    library.encode_special_tokens = True
    model = model_with(tmp_path_factory.mktemp("bpe"), byte_pair_metadata(content, "bloom"))
    yield model, library
    model.close()


@pytest.fixture(scope="module")
def forgeable(tmp_path_factory: pytest.TempPathFactory, words: SentencePieceProcessor) -> Iterator[LlamaModel]:
    """A vocabulary whose pieces of text join to a control token's name, and a user-defined token."""
    metadata = sentencepiece_metadata(words)
    pieces = ["</", "s>", "<s", "<u", "<un", "k>", "<0", "<0x", "<0x0", "A>", "[P", "[PA", "[PAD", "7]"]
    kinds = dict.fromkeys(pieces, 1) | {"<tool>": 4, "[PAD7]": 5}
    for at, (piece, kind) in enumerate(kinds.items(), VOCABULARY - len(kinds)):
        metadata["tokenizer.ggml.tokens"][at] = piece
        metadata["tokenizer.ggml.token_type"][at] = kind
        metadata["tokenizer.ggml.scores"][at] = 0.0
    model = model_with(tmp_path_factory.mktemp("forgeable"), metadata)
    yield model
    model.close()


@pytest.fixture(scope="module")
def blankless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LlamaModel, SentencePieceProcessor]]:
    """The recorded tokenizer without the dummy blank, in llama.cpp and in the library."""
    recorded = (RECORDS / "tokenizer.model").read_bytes()
    library = SentencePieceProcessor(model_proto=changed(recorded, dummy_prefix=False, remove_blanks=False))
    model = model_with(tmp_path_factory.mktemp("blankless"), sentencepiece_metadata(library, add_space_prefix=False))
    yield model, library
    model.close()


@pytest.fixture(scope="module")
def byteless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LlamaModel, SentencePieceProcessor]]:
    """A vocabulary that has no bytes for unknown characters, in llama.cpp and in the library."""
    trained = train("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False)
    library = SentencePieceProcessor(model_proto=trained)
    model = model_with(tmp_path_factory.mktemp("byteless"), sentencepiece_metadata(library))
    yield model, library
    model.close()


def test_recorded_texts_give_sentencepieces_ids(random_model: LlamaModel) -> None:
    recorded = json.loads((RECORDS / "tokenizer_cases.json").read_text(encoding="utf-8"))["llama"]
    for case in recorded:
        assert random_model.tokenizer.encode(case["text"], start=True) == case["sp_ids"], case["text"]
    assert len(recorded) > 5


@given(text=ANY)
@settings(deadline=None)
@example(text="  two  blanks\n\n and a tab\t ")
@example(text="你好，世界！🙂👩‍👩‍👧")
@example(text="▁ a▁▁b\0")
def test_any_text_gives_sentencepieces_ids(random_model: LlamaModel, words: SentencePieceProcessor, text: str) -> None:
    assert random_model.tokenizer.encode(text, start=True) == words.encode(text)


@given(text=ANY)
@settings(deadline=None)
@example(text="it'S I'LL 1234567 \n\n \r\n x")
def test_any_text_gives_the_librarys_ids(bpe: tuple[LlamaModel, Tokenizer], text: str) -> None:
    model, library = bpe
    for start in (True, False):
        ids = model.tokenizer.encode(text, start=start)
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert model.tokenizer.decode(ids).decode() == text


@given(parts=FORGED)
@settings(deadline=None)
@example(parts=["</s>"] * 3)
@example(parts=["a</s>", "</", "s>"])
@example(parts=["▁<0x0A>", "\n<unk>", "[PAD7]"])
def test_no_text_becomes_a_control_token(forgeable: LlamaModel, parts: list[str]) -> None:
    text = "".join(parts)
    tokenizer = forgeable.tokenizer
    for start in (True, False):
        ids = tokenizer.encode(text, start=start)
        assert not {0, 1, 2} & set(ids)
        decoded, expected = tokenizer.decode(ids), text.replace("▁", " ").encode()
        assert decoded == expected or (start and decoded == b" " + expected)


def test_a_blank_comes_before_a_text_that_starts_and_nowhere_else(forgeable: LlamaModel) -> None:
    tokenizer = forgeable.tokenizer
    assert tokenizer.decode(tokenizer.encode("hello<tool>there", start=True)) == b" hello<tool>there"
    assert tokenizer.decode(tokenizer.encode("hello<tool>there", start=False)) == b"hello<tool>there"
    assert tokenizer.encode("", start=True) == []
    parts = [tokenizer.encode(part, start=False) for part in ("▁hello", "\n", "there")]
    assert tokenizer.encode("▁hello\nthere", start=False) == [*parts[0], *parts[1], *parts[2]]
    assert VOCABULARY - 2 in tokenizer.encode("hello<tool>there", start=False)
    assert tokenizer.special("<tool>") is None


@given(text=ANY)
@settings(deadline=None)
@example(text=" in the middle, <tool> and after")
@example(text="  two")
def test_a_text_that_goes_on_gets_no_blank(
    random_model: LlamaModel, blankless: tuple[LlamaModel, SentencePieceProcessor], text: str
) -> None:
    model, library = blankless
    assert random_model.tokenizer.encode(text, start=False) == library.encode(text)
    for start in (True, False):  # where the vocabulary wants none, there is none at the start either
        assert model.tokenizer.encode(text, start=start) == library.encode(text)


@given(
    text=st.one_of(ANY, st.lists(st.sampled_from(["the ", "bridge", "🙂", "✓✓", "▁", "\n", "桥", "é"])).map("".join))
)
@settings(deadline=None)
@example(text="the 🙂✓ bridge 🙂")
def test_characters_without_pieces_or_bytes_are_unknown(
    byteless: tuple[LlamaModel, SentencePieceProcessor], text: str
) -> None:
    """llama.cpp itself ends the process for one of them."""
    model, library = byteless
    assert model.tokenizer.encode(text, start=True) == library.encode(text)


def test_control_tokens_are_known_by_their_text(random_model: LlamaModel) -> None:
    tokenizer = random_model.tokenizer
    assert (tokenizer.special("<s>"), tokenizer.special("</s>")) == (1, 2)
    assert tokenizer.decode([1, 2]) == b""


def test_half_characters_become_question_marks(random_model: LlamaModel) -> None:
    tokenizer = random_model.tokenizer
    assert tokenizer.decode(tokenizer.encode("a\ud800b", start=False)) == b"a?b"


@settings(max_examples=30, deadline=None)
@given(text=st.lists(st.sampled_from(["\n", " ", "a", "the cat ", "你好", "🙂", "ЖЩ", "▁", "</s>"]), max_size=12))
def test_a_long_text_is_cut_where_that_changes_nothing(forgeable: LlamaModel, text: list[str]) -> None:
    whole = "".join(part * 150 for part in text)
    encoder = forgeable.tokenizer._encoder
    assert isinstance(encoder, SentencePiece)
    parts = list(encoder._pieces(whole))
    assert "".join(parts) == whole
    assert encoder.encode(whole, start=False) == NativeEncoder.encode(encoder, whole, start=False)


@pytest.mark.parametrize("added", [True, False])
def test_the_token_that_begins_is_known_whether_or_not_it_is_added(
    tmp_path: Path, words: SentencePieceProcessor, added: bool
) -> None:
    model = model_with(tmp_path, sentencepiece_metadata(words, add_bos_token=added))
    try:
        assert (model.info.bos, model.info.add_bos) == (1, added)
    finally:
        model.close()


def test_a_token_that_no_file_names_begins_nothing(tmp_path: Path) -> None:
    content = (fixtures() / "belle-bloom" / "hf" / "tokenizer.json").read_text(encoding="utf-8")
    metadata = byte_pair_metadata(content, "bloom")
    metadata.pop("tokenizer.ggml.bos_token_id", None)
    model = model_with(tmp_path, metadata)
    try:
        assert (model.info.bos, model.info.add_bos) == (None, False)
    finally:
        model.close()


def test_of_several_chat_templates_the_default_one_is_used(tmp_path: Path, words: SentencePieceProcessor) -> None:
    key = "tokenizer.chat_template"
    metadata = sentencepiece_metadata(words) | {f"{key}.tool_use": "{{ tools }}", f"{key}.chat": "{{ x }}"}
    for more, source in (({}, "{{ x }}"), ({key: "{{ d }}"}, "{{ d }}")):
        model = model_with(tmp_path, metadata | more)
        try:
            assert model.info.chat_template == source
            assert "tool_use" in model.info.details["chat templates"]
        finally:
            model.close()


def test_an_end_of_turns_that_llama_cpp_takes_for_no_end_of_answers_ends_none(
    tmp_path: Path, words: SentencePieceProcessor
) -> None:
    """As gpt-oss's `<|end|>`, which closes thoughts as well; other vocabularies' turns do end by it."""
    names = ["<|return|>", "<|call|>", "<|end|>"]
    for count, ends in ((3, ["<|call|>", "<|return|>"]), (1, ["<|end|>"])):
        metadata = sentencepiece_metadata(words)
        for at, name in enumerate(names[-count:], VOCABULARY - count):
            metadata["tokenizer.ggml.tokens"][at] = name
            metadata["tokenizer.ggml.token_type"][at] = 3
        folder = tmp_path / f"{count}"
        folder.mkdir()
        model = model_with(folder, metadata)
        found = {id: name for name, id in model.tokenizer.specials.items()}
        assert sorted(found[id] for id in model.info.eos if found[id] in names) == ends
        model.close()
