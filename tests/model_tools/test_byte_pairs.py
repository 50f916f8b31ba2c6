"""Byte-pair tokenizers as their files write them, in every version, and what of them llama.cpp does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.sentencepiece_files import BYTE, NORMAL, UNKNOWN
from chatbridge.model_tools.gguf import byte_pairs
from chatbridge.model_tools.gguf.byte_pairs import BytePairs, from_json, from_words, scored
from chatbridge.model_tools.gguf.pre_tokenizers import OF_CLASSES

MODEL: dict[str, Any] = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "byte_fallback": True}


def read(model: object = MODEL, **more: object) -> BytePairs:
    return from_json({"model": model, **more})


def test_a_former_sentencepiece_model_is_read() -> None:
    assert read() == BytePairs(MODEL["vocab"], ["a b"], space_prefix=False, notes=[], nfc=False)
    found = read({**MODEL, "unk_token": "<unk>", "merges": [["a", "b"], ["a b", "c"]]})
    assert (found.unknown, found.merges) == ("<unk>", ["a b", "a\u0120b c"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (None, "it is no byte-pair tokenizer .no model."),
        ({**MODEL, "type": "Unigram"}, "it is no byte-pair tokenizer .Unigram."),
        ({**MODEL, "vocab": {}}, "it has no vocabulary"),
        ({**MODEL, "vocab": ["a"]}, "it has no vocabulary"),
        ({**MODEL, "vocab": {"a": -1}}, "its vocabulary holds what is no id"),
        ({**MODEL, "vocab": {"a": 1 << 31}}, "its vocabulary holds what is no id"),
        ({**MODEL, "vocab": {"a": "1"}}, "its vocabulary holds what is no id"),
        ({**MODEL, "merges": []}, "it has no merges"),
        ({**MODEL, "merges": "a b"}, "it has no merges"),
        ({**MODEL, "merges": ["ab"]}, "a merge is 'ab'"),
        ({**MODEL, "merges": [["a"]]}, r"a merge is .\['a'\]"),
        ({**MODEL, "merges": [["a", "b", "c"]]}, r"a merge is .\['a', 'b', 'c'\]"),
        ({**MODEL, "merges": [["a", 5]]}, r"a merge is .\['a', 5\]"),
        ({**MODEL, "byte_fallback": False}, "it cuts words by .None."),
    ],
)
def test_what_is_none_is_refused_in_words(model: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(model)


def test_the_greatest_id_is_one() -> None:
    assert read({**MODEL, "vocab": {"a": (1 << 31) - 1}}).ids == {"a": (1 << 31) - 1}
    without = {name: value for name, value in MODEL.items() if name != "type"}
    assert read(without).merges == ["a b"]


def special(name: object) -> dict[str, object]:
    return {"SpecialToken": {"id": name}}


TEXT: dict[str, object] = {"Sequence": {"id": "A"}}


@pytest.mark.parametrize(
    ("post", "adds", "ends"),
    [
        (None, {}, {}),
        ({"type": "ByteLevel"}, {"bos": False, "eos": False}, {}),
        ({"type": "TemplateProcessing", "single": [special("<s>"), TEXT]}, {"bos": True, "eos": False}, {"bos": "<s>"}),
        ({"type": "TemplateProcessing", "single": [TEXT, special("e")]}, {"bos": False, "eos": True}, {"eos": "e"}),
        ({"type": "TemplateProcessing", "single": [special(5), 7]}, {"bos": True, "eos": False}, {}),
        ({"type": "TemplateProcessing", "single": []}, {}, {}),
        ({"type": "TemplateProcessing", "single": "x"}, {}, {}),
        ({"type": "Other", "single": [special("<s>"), TEXT]}, {}, {}),
        (
            {"processors": [{"type": "TemplateProcessing", "single": [special("<s>"), TEXT]}, {"type": "ByteLevel"}]},
            {"bos": True, "eos": False},
            {"bos": "<s>"},
        ),
    ],
)
def test_what_a_text_gets_is_told_by_the_end_of_the_file(
    post: object, adds: dict[str, bool], ends: dict[str, str]
) -> None:
    found = read(post_processor=post)
    assert (found.adds, found.ends) == (adds, ends)


def metaspace(**keys: object) -> dict[str, object]:
    return {"pre_tokenizer": {"type": "Metaspace", **keys}}


@pytest.mark.parametrize(
    ("written", "prefix"),
    [
        ({}, False),
        ({"normalizer": {"type": "Prepend"}}, True),
        ({"normalizer": {"normalizers": [{"type": "NFC"}, {"type": "Prepend"}]}}, True),
        ({"normalizer": {"type": "Replace"}}, False),
        (metaspace(), True),
        (metaspace(prepend_scheme="never"), False),
        (metaspace(prepend_scheme="first"), True),
        (metaspace(add_prefix_space=False), False),
        ({"pre_tokenizer": {"pretokenizers": [{"type": "Other"}, {"type": "Metaspace"}]}}, True),
        ({"pre_tokenizer": {"type": "Other"}}, False),
    ],
)
def test_a_blank_is_put_before_a_text_where_one_of_its_steps_does(written: dict[str, object], prefix: bool) -> None:
    assert read(**written).space_prefix is prefix


def test_changes_of_texts_that_llama_cpp_does_not_make_are_told() -> None:
    assert (read(normalizer={"type": "NFC"}).notes, read(normalizer={"type": "NFC"}).nfc) == ([], True)
    both = {"normalizers": [{"type": "Strip"}, {"type": "Lowercase"}, {"type": "NFC"}]}
    wanted = "it changes texts by Lowercase, Strip before it cuts them, which llama.cpp does not"
    assert read(normalizer=both).notes == [wanted]


def test_words_and_merges_of_older_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, pre = next(iter(OF_CLASSES.items()))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n\nab c\n", encoding="utf-8")
    assert from_words({"a": 0}, tmp_path / "merges.txt", kind) == BytePairs({"a": 0}, ["a b", "ab c"], pre)
    size = (tmp_path / "merges.txt").stat().st_size
    monkeypatch.setattr(byte_pairs, "MAX_MERGES", size)
    assert from_words({"a": 0}, tmp_path / "merges.txt", kind).merges == ["a b", "ab c"]
    monkeypatch.setattr(byte_pairs, "MAX_MERGES", size - 1)
    with pytest.raises(ValueError, match=f"merges.txt has more than {size - 1} bytes"):
        from_words({"a": 0}, tmp_path / "merges.txt", kind)
    (tmp_path / "latin.txt").write_bytes(b"a \xe9\n")
    with pytest.raises(ValueError, match=r"latin.txt is no text in UTF-8 \(byte 2\)"):
        from_words({"a": 0}, tmp_path / "latin.txt", kind)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ModelLoadError, match="the file is empty"):
        from_words({"a": 0}, tmp_path / "empty.txt", kind)
    for other, words in (("Odd", "how a Odd cuts words"), ("", "how a tokenizer without a name cuts words")):
        with pytest.raises(ValueError, match=words):
            from_words({"a": 0}, tmp_path / "merges.txt", other)


def test_scores_are_the_ranks_of_the_merges() -> None:
    ids = {"<unk>": 0, "<0x0A>": 1, "a": 2, "b": 3, "ab": 4, "abb": 5, "<0x0a>": 6, "é": 7}
    pieces, notes = scored(BytePairs(ids, ["a b", "ab b", "a b"], unknown="<unk>"), -99.0)
    assert pieces == {
        0: ("<unk>", -99.0, UNKNOWN), 1: ("<0x0A>", -2.0, BYTE), 2: ("a", -2.0, NORMAL), 3: ("b", -2.0, NORMAL),
        4: ("ab", 0.0, NORMAL), 5: ("abb", -1.0, NORMAL), 6: ("<0x0a>", -99.0, NORMAL), 7: ("é", -2.0, NORMAL),
    }  # fmt: skip
    assert notes == []


@pytest.mark.parametrize(("length", "told"), [(200, True), (201, False)])
def test_other_ways_to_put_a_token_together_are_counted(length: int, told: bool) -> None:
    _, notes = scored(BytePairs({"a": 0, "aa": 1, "b": 2, "ab": 3}, ["a a", "x b"]), 0.0)
    assert notes == ["1 tokens can be put together in more ways than its merges say, and llama.cpp takes each of them"]
    long = {"x": 0, "y" * (length - 1): 1, "x" + "y" * (length - 1): 2}
    assert bool(scored(BytePairs(long, ["a b"]), 0.0)[1]) is told
    ends = {"x" * (length - 1): 0, "y": 1, "x" * (length - 1) + "y": 2}
    assert bool(scored(BytePairs(ends, ["a b"]), 0.0)[1]) is told


def test_a_byte_level_tokenizer_has_llama_cpps_name_for_how_it_cuts() -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    found = read({**MODEL, "byte_fallback": False}, pre_tokenizer=byte_level, post_processor={"type": "ByteLevel"})
    adds = {"bos": False, "eos": False}
    assert found == BytePairs(MODEL["vocab"], ["a b"], found.pre, adds, {}, False, notes=[], nfc=False)
    assert found.pre
