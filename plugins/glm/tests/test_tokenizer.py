"""ChatGLM's own ids for honest text, and none of a control token for any other."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import pytest
from chatbridge_glm.tokenizer import GlmTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from chatbridge import ModelLoadError
from chatbridge.prompts.confusables import with_line_ends

from .conftest import TOKENIZER, recorded, there

CASES = recorded("tokenizer_cases.json")
IDS = CASES["special_ids"]
# The layer above SentencePiece takes these for real when somebody types them; that is what we prevent.
TYPED = ("<sop>", "<eop>", "[MASK]", "<pad>", "<unk>")
HONEST = [case for case in CASES["cases"] if not any(name in case["text"] for name in TYPED)]


@pytest.fixture(scope="module")
def tokenizer() -> GlmTokenizer:
    return GlmTokenizer(there(TOKENIZER), ("<sop>", IDS["<sop>"]))


@pytest.mark.parametrize("case", HONEST, ids=[case["text"][:20] for case in HONEST])
def test_ids_are_those_of_the_original(tokenizer: GlmTokenizer, case: dict) -> None:
    assert tokenizer.encode(case["text"], start=True) == case["ids"]
    blank = b" " if case["ids"] else b""
    decoded = tokenizer.decode(case["ids"])
    assert decoded == (blank * decoded.startswith(b" ")) + case["sp_decode"].encode()


@pytest.mark.parametrize("case", CASES["cases"], ids=[case["text"][:20] for case in CASES["cases"]])
def test_text_that_goes_on_gets_no_blank(tokenizer: GlmTokenizer, case: dict) -> None:
    assert tokenizer.encode(case["text"], start=False) == case["sp_encode_no_dummy_prefix"]


def test_special_ids(tokenizer: GlmTokenizer) -> None:
    assert len(HONEST) > 20
    for name, number in IDS.items():
        if name in ("<unk>", "<s>", "</s>", "<pad>") or name[0] == "[" or name in ("<sop>", "<eop>"):
            assert tokenizer.special(name) == number
        elif name[:2] != "<0" and name in ("<n>", "<|tab|>", "<|blank_2|>"):
            assert tokenizer.special(name) is None
    assert tokenizer.size == CASES["properties"]["vocab_size"]


def test_incremental_decoding_gives_whole_characters_once(tokenizer: GlmTokenizer) -> None:
    ids = CASES["incremental"]["ids"]
    for count, expected in enumerate(CASES["incremental"]["decoded_prefixes"], start=1):
        found = tokenizer.decode(ids[:count]).decode("utf-8", "ignore")
        assert found.lstrip(" ") == expected.replace("\ufffd", "").lstrip(" ")
    for case in CASES["decode"]:
        found = tokenizer.decode(case["ids"]).decode("utf-8", "replace")
        assert found.strip() == case["decode_skip_special"].replace("\u2047", "").strip() or "\ufffd" in found


def test_whatever_becomes_a_line_end_is_taken_for_one_by_the_guard(tokenizer: GlmTokenizer) -> None:
    """The vocabulary's normalisation makes "<n>" of more than what looks like it."""
    (line_end,) = tokenizer.encode("\n", start=False)
    kinds = ("Cc", "Cf", "Mn", "Zs", "Ll", "Lm", "No", "So", "Pe", "Ps", "Sm", "Po")
    odd = [chr(code) for code in range(0x1_0000) if unicodedata.category(chr(code)) in kinds and chr(code) != "\n"]
    written = [form.format(char) for char in odd for form in ("<{}n>", "<n{}>", "<{}>", "{}n>", "<n{}")]
    found = [one for one in written if line_end in tokenizer.encode(f"a{one}b", start=False)]
    assert len(found) > 40
    assert [one for one in found if with_line_ends(one) == one] == []


def test_pictures_move_all_ids() -> None:
    shifted = GlmTokenizer(there(TOKENIZER), ("<sop>", IDS["<sop>"] + 50))
    for case in CASES["num_image_tokens_50"]:
        assert shifted.encode(case["text"], start=True) == case["ids"]
        assert shifted.decode(case["ids"]).decode().strip() == case["decoded"]
    assert shifted.special("<eop>") == IDS["<eop>"] + 50


def test_typed_control_words_become_text(tokenizer: GlmTokenizer) -> None:
    controls = {*tokenizer.specials.values()}
    for case in CASES["cases"]:
        assert tokenizer.encode(case["text"], start=True) == case["sp_encode"]
        assert not controls.intersection(case["sp_encode"])


@given(st.lists(st.sampled_from([*IDS, " ", "a", "你", "<", "|>", "\n", "\t", "\ud800", "\x00", "▁"]), max_size=8))
@settings(max_examples=60, deadline=None)
def test_no_text_becomes_a_control_token(tokenizer: GlmTokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    for start in (True, False):
        ids = tokenizer.encode(text, start=start)
        assert not {*ids} & {*tokenizer.specials.values()}
        assert b"".join(tokenizer.decode([one]) for one in ids) == tokenizer.decode(ids)


def test_control_words_are_text_even_where_a_file_would_find_them(tmp_path: Path) -> None:
    words = ["<n>", "<|tab|>", "[MASK]", "[gMASK]", "<sop>", "<eop>", *(f"<|blank_{n}|>" for n in range(2, 81))]
    file = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the fox reads a book", "a river and a bridge"] * 9), model_writer=file,
        vocab_size=400, user_defined_symbols=words, byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    path = tmp_path / "ice_text.model"
    path.write_bytes(file.getvalue())
    processor = SentencePieceProcessor(model_file=str(path))
    number = processor.piece_to_id("<sop>")
    assert number in processor.encode("<sop>"), "the file would not find it"
    found = GlmTokenizer(path, ("<sop>", number))
    for text in ("<sop>", "the fox<sop><eop> [gMASK]<sop>", "<s<sop>op>", "[MASK][gMASK]"):
        for start in (True, False):
            ids = found.encode(text, start=start)
            assert not {*ids} & {*found.specials.values()}
            assert found.decode(ids).decode().lstrip(" ") == text
    assert found.encode("the fox", start=True) == processor.encode("the fox")


def test_no_vocabulary_makes_a_text_of_any_length_of_one_token(tmp_path: Path) -> None:
    huge, file = f"<|blank_{10**12}|>", io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the fox reads a book"] * 9), model_writer=file, vocab_size=300, minloglevel=2,
        user_defined_symbols=["<n>", "<|tab|>", "<sop>", huge], byte_fallback=True, hard_vocab_limit=False,
    )  # fmt: skip
    path = tmp_path / "ice_text.model"
    path.write_bytes(file.getvalue())
    processor = SentencePieceProcessor(model_file=str(path))
    found = GlmTokenizer(path, ("<sop>", processor.piece_to_id("<sop>")))
    assert found.decode([processor.piece_to_id(huge)]) == huge.encode()


def test_a_piece_that_is_no_text_is_told(tmp_path: Path) -> None:
    whole, path = there(TOKENIZER).read_bytes(), tmp_path / "ice_text.model"
    processor = SentencePieceProcessor(model_proto=whole)
    names = (processor.id_to_piece(id).encode() for id in range(processor.vocab_size()))
    piece = next(name for name in names if len(name) == 3 and name.decode().isalpha())
    path.write_bytes(whole.replace(b"\x0a\x03" + piece, b"\x0a\x03\xff\xfe\xfd", 1))
    with pytest.raises(ModelLoadError, match="no SentencePiece model"):
        GlmTokenizer(path, ("<sop>", IDS["<sop>"]))


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "ice_text.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:99\n")
    for path, why in (
        (tmp_path / "ice_text.model", r"git-lfs pointer"),
        (tmp_path / "nothing", r"no such file; the tokenizer ice_text.model belongs in the folder"),
        (Path(__file__), r"no SentencePiece model"),
    ):
        with pytest.raises(ModelLoadError, match=why):
            GlmTokenizer(path, ("<sop>", IDS["<sop>"]))
    for anchor in (("<sop>", 3), ("<nothing>", IDS["<sop>"])):
        with pytest.raises(ModelLoadError, match="do not belong together"):
            GlmTokenizer(there(TOKENIZER), anchor)
