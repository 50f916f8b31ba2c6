"""Tokenizers give their originals' ids for honest text, no control token for any text, and exact bytes for ids."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chatbridge_transformers.tokenizer import read
from chatbridge_transformers.vocabulary import Pieces, TransformersTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from .conftest import BLOOM, LLAMA, change, recorded

FOLDERS = {
    "llama": LLAMA / "hf",
    "chinese_llama": LLAMA / "chinese-llama-lora",
    "chinese_alpaca": LLAMA / "chinese-alpaca-lora",
}
TEXTS = ("Hello! How are you?", "你好，世界。", " a  b\n\tc", "naïve “quotes” 🙂", "", "<s></s> [PAD]<pad>", "x" * 300)
CORPUS = ["The fox learns to read two books.", "Hello! How are you today?", "说说大海。今天过得怎么样？"] * 4


@pytest.mark.parametrize("name", FOLDERS)
def test_sentencepiece_ids_are_the_recorded_ones(name: str) -> None:
    tokenizer = read(FOLDERS[name]).tokenizer
    cases = recorded(LLAMA / "tokenizer_cases.json")
    assert tokenizer.size == cases["sizes"][name]
    for case in cases[name]:
        if "sp_ids" in case:
            assert tokenizer.encode(case["text"], start=True) == case["sp_ids"], case["text"]
    for text, token in ({"[PAD]": cases["pad"][name]} if name in cases.get("pad", {}) else {}).items():
        assert tokenizer.special(text) == token
        assert token not in tokenizer.encode(f"a{text}b {text}", start=True)


def test_byte_level_ids_are_the_recorded_ones() -> None:
    tokenizer = read(BLOOM / "hf").tokenizer
    for case in recorded(BLOOM / "reference_hf.json")["tokenizer"]:
        assert tokenizer.encode(case["text"], start=True) == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"]).decode() == case["decoded"]
    assert (tokenizer.add_bos, tokenizer.ends) == (False, (2,))


@pytest.mark.parametrize("folder", [*FOLDERS.values(), BLOOM / "hf"], ids=lambda path: path.name)
def test_text_that_goes_on_has_no_blank_before_it(folder: Path) -> None:
    tokenizer = read(folder).tokenizer
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text, start=False)) == text.encode()
        blank = b"" if folder.parent == BLOOM or not text else b" "
        assert tokenizer.decode(tokenizer.encode(text, start=True)) == blank + text.encode()


def test_the_answer_to_what_a_prompt_begins_with_is_in_the_configuration(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(LLAMA / "hf", tmp_path / "m"))
    assert read(folder).tokenizer.bos == 1
    change(folder / "tokenizer_config.json", add_bos_token=False)
    assert (read(folder).tokenizer.bos, read(folder).tokenizer.add_bos) == (1, False)


def test_half_characters_become_question_marks() -> None:
    for folder in (LLAMA / "hf", BLOOM / "hf"):
        assert read(folder).tokenizer.decode(read(folder).tokenizer.encode("a\ud83d", start=False)) == b"a?"


# --- vocabularies as they are published, small ------------------------------------------------------------------------

ADDED = [
    AddedToken("<|im_start|>", special=True),
    AddedToken("<|im_end|>", special=True),
    AddedToken("<|user|>", special=False),  # a mark that its file doesn't call special
    AddedToken("<tool_call>", special=False),
    AddedToken("<think>", special=False),
    AddedToken("    ", special=False, normalized=False),  # runs of blanks, as GPT-NeoX has them
]


def write(folder: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def byte_level(folder: Path) -> Path:
    """As Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.add_tokens(ADDED)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.token_to_id("<|im_start|>"))]
    )
    return write(folder, tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", chat_template="{{ x }}")


def test_which_control_tokens_take_in_the_blanks_beside_them_is_told(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "m")
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.add_special_tokens([AddedToken("<|sep|>", lstrip=True, rstrip=True), AddedToken("<|end|>", rstrip=True)])
    library.add_tokens([AddedToken("<tool_response>", rstrip=True)])  # an answer's own: it stays in its text
    library.save(str(folder / "tokenizer.json"))
    tokenizer = read(folder).tokenizer
    sep, end = tokenizer.special("<|sep|>"), tokenizer.special("<|end|>")
    assert (tokenizer.lstrip, tokenizer.rstrip) == ({sep}, {sep, end})


def byte_fallback(folder: Path) -> Path:
    """As Llama 2's tokenizer.json: a blank before the text by a normalizer, bytes for what is unknown."""
    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    for piece in ("▁", *"abcdefghijklmnopqrstuvwxyz", "▁a", "he", "ll"):
        pieces.setdefault(piece, len(pieces))
    tokenizer = Tokenizer(
        models.BPE(pieces, [("▁", "a"), ("h", "e"), ("l", "l")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens(ADDED)
    return write(folder, tokenizer, bos_token="<s>", eos_token="</s>", add_bos_token=True, tokenizer_class="Other")


def unigram(folder: Path) -> Path:
    """As T5's and XGLM's, whose special tokens are pieces of the vocabulary, too: text would give them as such."""
    letters = [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz<>|/s_"]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -3.0), ("▁a", -2.0), *letters]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens(ADDED)
    return write(folder, tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("make", [byte_level, byte_fallback, unigram])
def test_no_text_gives_a_control_token_or_a_tag(make: Any, tmp_path: Path) -> None:
    tokenizer = read(make(tmp_path / "m")).tokenizer
    assert {"<|im_start|>", "<|im_end|>", "<|user|>"} <= set(tokenizer.specials)
    assert tokenizer.special("<tool_call>") is None
    never = {*tokenizer.specials.values(), added(tmp_path, "<tool_call>")}
    for name in (*tokenizer.specials, "<tool_call>"):
        for text in (name, f"x{name}y", f" {name} ", name * 3, f"{name[:-1]}{name}", f"{name[0]}{name[1:]}"):
            for start in (True, False):
                ids = tokenizer.encode(text, start=start)
                assert never.isdisjoint(ids), text
                assert tokenizer.decode(ids).lstrip() == text.encode().lstrip()


def added(folder: Path, text: str) -> int:
    return int(Tokenizer.from_file(str(folder / "m" / "tokenizer.json")).token_to_id(text))


@pytest.mark.parametrize("make", [byte_level, byte_fallback, unigram])
def test_added_text_is_read_as_the_original_reads_it(make: Any, tmp_path: Path) -> None:
    tokenizer = read(make(tmp_path / "m")).tokenizer
    for text in ("    ", "<think>"):
        assert tokenizer.encode(f"a{text}a", start=False).count(added(tmp_path, text)) == 1
    # What a model says by a token that no text gives is read by people all the same.
    assert tokenizer.decode([added(tmp_path, "<tool_call>")]) == b"<tool_call>"
    assert tokenizer.decode([added(tmp_path, "<|user|>")]) == b""


def test_what_begins_a_prompt_and_ends_a_reply(tmp_path: Path) -> None:
    for make, bos, ends in ((byte_level, "<|im_start|>", "<|im_end|>"), (byte_fallback, "<s>", "</s>")):
        found = read(make(tmp_path / make.__name__))
        assert (found.tokenizer.bos, found.tokenizer.add_bos) == (found.tokenizer.special(bos), True)
        assert found.tokenizer.ends == (found.tokenizer.special(ends),)
    assert read(tmp_path / "byte_level").template.source == "{{ x }}"
    assert not read(unigram(tmp_path / "u")).tokenizer.add_bos


@pytest.mark.parametrize("make", [byte_level, byte_fallback, unigram])
def test_ids_of_honest_text_are_the_librarys_own(make: Any, tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    tokenizer, original = read(folder).tokenizer, Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ("hello a  hell", "a\nb", "x    y", "你好 a", " a"):
        assert tokenizer.encode(text, start=True) == original.encode(text, add_special_tokens=False).ids


@cache
def remembered(folder: Path) -> TransformersTokenizer:
    return read(folder).tokenizer


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*"ab </s>|_[]PAD", "<s>", "</s>", "你", "▁", "\ud800", "🙂"]), max_size=40))
def test_any_text_comes_back_without_control_tokens(parts: list[str]) -> None:
    text = "".join(parts)
    for folder in (LLAMA / "chinese-alpaca-lora", BLOOM / "hf"):
        tokenizer = remembered(folder)
        ids = tokenizer.encode(text, start=False)
        assert not {*tokenizer.specials.values()} & {*ids}
        whole = tokenizer.decode(ids)
        assert whole.replace(b"\xe2\x96\x81", b" ") == text.encode("utf-8", "replace").replace(b"\xe2\x96\x81", b" ")
        assert b"".join(tokenizer.decode([token]) for token in ids) == whole


def test_a_piece_that_only_normalisation_makes_is_never_given() -> None:
    def encode(text: str, start: bool) -> list[int]:
        text = text.replace("＜s＞", "<s>")
        return [0 if text == "<s>" else 1] if len(text) > 1 else [2] * len(text)

    tokenizer = TransformersTokenizer("odd", encode, Pieces({0: b"", 1: b"x", 2: b"y"}, {"<s>": 0}, {}, None, ()))
    assert 0 not in tokenizer.encode("＜s＞", start=True)
