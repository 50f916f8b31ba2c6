"""Each row of an embedding gets one token: from the tokenizer, from what was added, or one that nobody uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.errors import ModelLoadError
from chatbridge.model_files.sentencepiece_files import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from chatbridge.model_tools.gguf.vocabulary import ADDED, PADDING, Vocabulary, read_vocabulary


def write(folder: Path, vocabulary: dict[str, int], added: list[dict[str, Any]] | None = None, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    model = {"type": "BPE", "vocab": vocabulary, "merges": ["a b"], "byte_fallback": True, "unk_token": "<unk>"}
    written = {"model": model, "added_tokens": added or [], **more}
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    return folder


def read(folder: Path, rows: int, **config: object) -> Vocabulary:
    return read_vocabulary([folder], rows, config)


WORDS = {"<unk>": 0, "<0x0A>": 1, "a": 2, "b": 3, "ab": 4}


def test_rows_are_filled_up_to_the_last(tmp_path: Path) -> None:
    found = read(write(tmp_path, WORDS), 7, bos_token_id=6, eos_token_id=7)
    assert (found.kind, found.pre, found.merges, found.space_prefix) == ("llama", "default", (), False)
    assert found.tokens == (b"<unk>", b"<0x0A>", b"a", b"b", b"ab", b"[PAD5]", b"[PAD6]")
    assert found.kinds == (UNKNOWN, BYTE, NORMAL, NORMAL, NORMAL, UNUSED, UNUSED)
    assert found.scores == (PADDING, -1.0, -1.0, -1.0, 0.0, PADDING, PADDING)
    assert (found.ids, found.adds, found.unused, found.notes) == ({"bos": 6}, {"bos": True, "eos": False}, 2, ())
    assert read(tmp_path, 5).unused == 0
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json\) says 5, and the weights 4"):
        read(tmp_path, 4)


def test_added_tokens_take_the_place_of_the_tokenizers_own(tmp_path: Path) -> None:
    added = [
        {"id": 0, "content": "<unk>", "special": True},
        {"id": 1, "content": "<0x0A>"},
        {"id": 2, "content": "a", "special": True},
        {"id": 3, "content": "B", "special": True},
        {"id": 5, "content": "x\u2581y"},
        {"id": 6, "content": "z\u2581", "special": True},
    ]
    found = read(write(tmp_path, WORDS, added), 7)
    assert found.tokens == (b"<unk>", b"<0x0A>", b"a", b"B", b"ab", b"x y", "z\u2581".encode())
    assert found.kinds == (UNKNOWN, BYTE, CONTROL, CONTROL, NORMAL, USER_DEFINED, CONTROL)
    assert found.scores == (PADDING, -1.0, -1.0, ADDED, 0.0, ADDED, ADDED)


def test_a_text_of_two_ids_is_left_to_the_first_or_the_one_that_was_added(tmp_path: Path) -> None:
    added = [{"id": 5, "content": "a"}, {"id": 6, "content": "b", "special": True}, {"id": 7, "content": "b"}]
    found = read(write(tmp_path, {**WORDS, "[PAD2]": 8}, added), 9)
    assert found.tokens[2:] == (b"[PAD2_]", b"[PAD3]", b"ab", b"a", b"b", b"[PAD7]", b"[PAD2]")
    assert found.kinds[2:] == (UNUSED, UNUSED, NORMAL, USER_DEFINED, CONTROL, UNUSED, NORMAL)
    assert found.notes == ("3 tokens have the text of another, as 'a': they are marked as unused",)


def test_what_a_file_says_of_its_ends_is_the_last_word(tmp_path: Path) -> None:
    single = [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "ab"}}]
    write(tmp_path, WORDS, post_processor={"type": "TemplateProcessing", "single": single})
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "b", "bos_token": "a", "add_bos_token": true}')
    found = read(tmp_path, 5)
    assert (found.ids, found.adds) == ({"bos": 2, "eos": 4}, {"bos": False, "eos": True})


def test_the_first_folder_with_a_tokenizer_is_taken(tmp_path: Path) -> None:
    empty, words = tmp_path / "empty", write(tmp_path / "words", WORDS)
    empty.mkdir()
    assert read_vocabulary([empty, words, tmp_path / "x"], 5, {}).tokens[2] == b"a"
    with pytest.raises(ModelLoadError, match="empty: there is no tokenizer here"):
        read_vocabulary([empty, tmp_path / "x"], 5, {})
    (empty / "vocab.json").write_text(json.dumps(WORDS))
    with pytest.raises(ModelLoadError, match="there is no tokenizer here"):
        read_vocabulary([empty], 5, {})
    (empty / "merges.txt").write_text("a b\n")
    with pytest.raises(ModelLoadError, match="how a tokenizer without a name cuts words is not known"):
        read_vocabulary([empty], 5, {})
    (empty / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(ModelLoadError, match="how a tokenizer without a name cuts words is not known"):
        read_vocabulary([empty], 5, {})
    (empty / "vocab.json").unlink()
    with pytest.raises(ModelLoadError, match="no SentencePiece model"):
        read_vocabulary([empty], 5, {})


def test_a_token_that_is_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="a token or merge is no text"):
        read(write(tmp_path, {**WORDS, "\udc80": 5}), 6)
