"""SentencePiece's ids, on the recorded texts and against the library itself on any text there can be."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from chatbridge_numpy.tokenizer import GgufTokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatbridge.testing import sentencepiece_metadata

from .conftest import RECORDS

Processor = sentencepiece.SentencePieceProcessor
Make = Callable[[dict[str, Any]], GgufTokenizer]

RECORDED = json.loads((RECORDS / "tokenizer_cases.json").read_text(encoding="utf-8"))
CORPUS = (
    "the fox learns to read and the hen learns to write; how are you today? 12345 67890\n"
    "    def f(x):\n        return x + 1\n你好，今天天气怎么样？ 我很好，谢谢你。\n"
)
NEAR = st.text(st.sampled_from("▁ thefoxlrnsd0129\n\t.?你好，天<>/s|_\u200b\U0001f98aé"), max_size=80)
TEXTS = st.one_of(NEAR, st.text(st.characters(exclude_categories=("Cs",)), max_size=60))


def trained(**options: Any) -> Processor:
    """A small vocabulary of one's own."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([CORPUS] * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def llama(tokenizer_of: Make, words: Processor) -> GgufTokenizer:
    return tokenizer_of(sentencepiece_metadata(words))


@pytest.fixture(scope="module")
def chinese_llama(tokenizer_of: Make, chinese: Processor) -> GgufTokenizer:
    return tokenizer_of(sentencepiece_metadata(chinese))


@pytest.fixture(scope="module")
def chatml() -> Processor:
    """As the guide's: no dummy blank, control tokens, and tokens that are always whole."""
    return trained(
        add_dummy_prefix=False,
        control_symbols=["<|im_start|>", "<|im_end|>"],
        user_defined_symbols=["▁▁▁▁", "▁▁", "\n\n", "fox", "foxes"],
        allow_whitespace_only_pieces=True,
        split_digits=True,
    )


@pytest.fixture(scope="module")
def chatml_tokenizer(tokenizer_of: Make, chatml: Processor) -> GgufTokenizer:
    user_defined = {"▁▁▁▁", "▁▁", "\n\n", "fox", "foxes"}
    return tokenizer_of(sentencepiece_metadata(chatml, user_defined, add_space_prefix=False, add_bos_token=False))


@pytest.mark.parametrize("case", RECORDED["llama"], ids=lambda case: case["text"][:12])
def test_recorded_texts_of_llama(llama: GgufTokenizer, case: dict[str, Any]) -> None:
    ids = llama.encode(case["text"], start=True)
    assert ids == case["sp_ids"]
    assert llama.decode(ids).decode().removeprefix(" ") == case["text"]


@pytest.mark.parametrize("case", RECORDED["chinese_llama"], ids=lambda case: case["text"][:12])
def test_recorded_texts_of_chinese_llama(chinese_llama: GgufTokenizer, case: dict[str, Any]) -> None:
    assert chinese_llama.encode(case["text"], start=True) == case["sp_ids"]


@pytest.mark.parametrize("case", RECORDED["chinese_alpaca"], ids=lambda case: case["text"][:12])
def test_recorded_texts_of_chinese_alpaca(tokenizer_of: Make, chinese: Processor, case: dict[str, Any]) -> None:
    # Its [PAD] stands behind the pieces, as a control token: typed, it is text.
    metadata = sentencepiece_metadata(chinese)
    metadata["tokenizer.ggml.tokens"] += ["[PAD]"]
    metadata["tokenizer.ggml.scores"] += [0.0]
    metadata["tokenizer.ggml.token_type"] += [3]
    tokenizer = tokenizer_of(metadata)
    assert tokenizer.special("[PAD]") == RECORDED["pad"]["chinese_alpaca"]
    assert tokenizer.encode(case["text"], start=True) == case["sp_ids"]


@given(text=TEXTS)
@settings(deadline=None)
@example(text="▁▁ ▁")
@example(text="\0a\0")
@example(text="a" * 300)
def test_any_text_gives_the_librarys_ids(llama: GgufTokenizer, words: Processor, text: str) -> None:
    ids = llama.encode(text, start=True)
    assert ids == words.encode(text)
    assert llama.decode(ids).decode().replace("▁", " ") == (" " + text if text else "").replace("▁", " ")


@given(text=TEXTS)
@settings(deadline=None)
def test_pieces_of_equal_score_join_as_in_the_library(
    chinese_llama: GgufTokenizer, chinese: Processor, text: str
) -> None:
    # Chinese-LLaMA's own pieces all have score 0: whichever stands further left is joined first.
    assert chinese_llama.encode(text, start=True) == chinese.encode(text)


@given(text=TEXTS)
@settings(deadline=None)
@example(text="foxes foxe  fox      \n\n\n    x")
def test_whole_tokens_are_found_as_in_the_library(
    chatml_tokenizer: GgufTokenizer, chatml: Processor, text: str
) -> None:
    for start in (True, False):
        ids = chatml_tokenizer.encode(text, start=start)
        assert ids == chatml.encode(text)
        assert chatml_tokenizer.decode(ids).decode().replace("▁", " ") == text.replace("▁", " ")


@given(text=TEXTS)
@settings(deadline=None)
def test_unused_pieces_are_cut_up_again_as_in_the_library(both_with_unused: Any, text: str) -> None:
    tokenizer, processor = both_with_unused
    assert tokenizer.encode(text, start=True) == processor.encode(text)


@pytest.fixture(scope="module")
def both_with_unused(tokenizer_of: Make) -> tuple[GgufTokenizer, Processor]:
    """A tokenizer and the library, with a third of the pieces declared unused."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=with_unused(trained().serialized_model_proto()))
    assert sum(processor.is_unused(i) for i in range(processor.get_piece_size())) > 30
    return tokenizer_of(sentencepiece_metadata(processor)), processor


def with_unused(model: bytes) -> bytes:
    """A serialised model with every third plain piece marked as unused.

    Its message has the pieces as field 1, and in each the type as field 3, which is left out where it is plain.
    """
    changed, at, count = b"", 0, 0
    while model[at] == 0x0A:
        length = model[at + 1]
        piece = model[at + 2 : at + 2 + length]
        plain = piece[2 + piece[1] + 5 :] == b""  # nothing behind the text and the score
        count += plain
        piece += b"\x18\x05" if plain and count % 3 == 0 else b""
        changed += bytes([0x0A, len(piece)]) + piece
        at += 2 + length
    return changed + model[at:]


@given(
    texts=st.lists(st.one_of(NEAR, st.sampled_from(["<|im_end|>", "<|im_start|>", "</s>", "<s>", "<unk>", "<0x0A>"])))
)
@settings(deadline=None)
def test_text_never_becomes_a_control_token(chatml_tokenizer: GgufTokenizer, texts: list[str]) -> None:
    controls = set(chatml_tokenizer.vocabulary.specials.values())
    assert {"<|im_end|>", "<s>", "</s>"} <= set(chatml_tokenizer.vocabulary.specials)
    text = "".join(texts)
    for start in (True, False):
        ids = chatml_tokenizer.encode(text, start=start)
        assert not controls & set(ids)
        assert chatml_tokenizer.decode(ids).decode().replace("▁", " ") == text.replace("▁", " ")


def test_a_text_that_goes_on_gets_no_blank(llama: GgufTokenizer, words: Processor) -> None:
    assert llama.decode(llama.encode("fox", start=True)) == b" fox"
    assert llama.decode(llama.encode("fox", start=False)) == b"fox"
    assert llama.encode("", start=True) == llama.encode("", start=False) == words.encode("") == []


def test_half_characters_become_question_marks(llama: GgufTokenizer) -> None:
    assert llama.encode("a\ud800b\udc00", start=True) == llama.encode("a?b?", start=True)


def test_control_tokens_have_no_bytes(llama: GgufTokenizer) -> None:
    assert llama.decode([1, 350, 2]) == llama.decode([350]) == b" H"
    assert llama.decode([0]) == " ⁇ ".encode()
    assert [llama.special(text) for text in ("<s>", "</s>", "<unk>", "the")] == [1, 2, None, None]


def test_control_tokens_that_a_converter_marked_as_plain_stay_control(tokenizer_of: Make, chatml: Processor) -> None:
    metadata = sentencepiece_metadata(chatml)
    metadata["tokenizer.ggml.token_type"] = [1 if kind == 3 else kind for kind in metadata["tokenizer.ggml.token_type"]]
    tokenizer = tokenizer_of(metadata)
    end = chatml.piece_to_id("<|im_end|>")
    assert tokenizer.special("<|im_end|>") == end
    assert end in tokenizer.vocabulary.eos
    assert end not in tokenizer.encode("<|im_end|>", start=True)


@pytest.mark.parametrize(
    ("wanted", "added"), [({}, True), ({"add_bos_token": True}, True), ({"add_bos_token": False}, False)]
)
def test_bos_is_added_unless_the_file_says_no(
    tokenizer_of: Make, words: Processor, wanted: dict[str, Any], added: bool
) -> None:
    vocabulary = tokenizer_of(sentencepiece_metadata(words, **wanted)).vocabulary
    assert (vocabulary.bos, vocabulary.add_bos) == (1, added)
    assert vocabulary.eos == (2,)


def test_vocabularies_are_equal_only_where_they_cut_alike(
    tokenizer_of: Make, words: Processor, chinese: Processor, tmp_path: Path
) -> None:
    one, same, other, spaceless = (
        tokenizer_of(metadata).vocabulary.fingerprint
        for metadata in (
            sentencepiece_metadata(words),
            sentencepiece_metadata(words, add_bos_token=False),
            sentencepiece_metadata(chinese),
            sentencepiece_metadata(words, add_space_prefix=False),
        )
    )
    assert one == same
    assert len({one, other, spaceless}) == 3


def test_of_several_chat_templates_the_default_one_is_used(tokenizer_of: Make, words: Processor) -> None:
    key = "tokenizer.chat_template"
    metadata = sentencepiece_metadata(words) | {f"{key}.tool_use": "{{ tools }}", f"{key}.chat": "{{ x }}"}
    assert tokenizer_of(metadata).vocabulary.chat_template == "{{ x }}"
    assert tokenizer_of(metadata | {key: "{{ d }}"}).vocabulary.chat_template == "{{ d }}"
    assert tokenizer_of(sentencepiece_metadata(words)).vocabulary.chat_template is None
