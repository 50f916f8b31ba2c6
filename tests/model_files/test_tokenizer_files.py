"""Ids and control tokens are those that any of a tokenizer's files say, and nothing that can be no id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbridge import ModelLoadError
from chatbridge.model_files import tokenizer_files
from chatbridge.model_files.tokenizer_files import TokenizerFacts, chat_template_in, tokenizer_in


def put(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("vocabulary", "size"),
    [({}, 0), ({"a": 0}, 1), ({"a": 0, "b": 7, "c": -1, "d": "9", "e": 1 << 31}, 8), ({"a": (1 << 31) - 1}, 1 << 31)],
)
def test_a_vocabulary_is_as_large_as_its_greatest_id(tmp_path: Path, vocabulary: object, size: int) -> None:
    put(tmp_path, "vocab.json", vocabulary)
    assert tokenizer_in(tmp_path) == TokenizerFacts("vocab.json", size)
    put(tmp_path, "tokenizer.json", {"model": {"vocab": vocabulary}})
    assert tokenizer_in(tmp_path) == TokenizerFacts("tokenizer.json", size)


@pytest.mark.parametrize("written", [{}, {"model": 5}, {"model": {"vocab": 5}}])
def test_a_tokenizer_without_a_vocabulary_is_none(tmp_path: Path, written: object) -> None:
    put(tmp_path, "tokenizer.json", written)
    with pytest.raises(ModelLoadError, match=r"this is no tokenizer\.json: it has no vocabulary"):
        tokenizer_in(tmp_path)


def test_added_tokens_count_wherever_they_are(tmp_path: Path) -> None:
    put(tmp_path, "tokenizer.json", {"model": {"vocab": ["a", "b", "c"]}, "added_tokens": {"not": "a list"}})
    assert tokenizer_in(tmp_path) == TokenizerFacts("tokenizer.json", 3)
    added = [{"id": 1, "content": "x", "special": True}, {"id": 2, "content": 5, "special": True}, {"id": 2}]
    put(tmp_path, "tokenizer.json", {"model": {"vocab": ["a", "b", "c"]}, "added_tokens": added})
    assert tokenizer_in(tmp_path) == TokenizerFacts("tokenizer.json", 3, {"x": 1})
    put(tmp_path, "added_tokens.json", {"y": 2, "z": 4})
    assert tokenizer_in(tmp_path) == TokenizerFacts("tokenizer.json", 5, {"x": 1, "y": 2, "z": 4})
    decoder = {"9": {"content": "w"}, "-1": {"content": "v"}, "1" * 10: {"content": "u"}, "3": "t", "4": {"content": 5}}
    put(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": decoder})
    assert tokenizer_in(tmp_path) == TokenizerFacts("tokenizer.json", 10, {"x": 1, "y": 2, "z": 4, "w": 9})
    put(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": [1]})
    assert tokenizer_in(tmp_path) == TokenizerFacts("tokenizer.json", 5, {"x": 1, "y": 2, "z": 4})


def test_a_chat_template_is_read_up_to_a_bound_and_its_own_file_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "tokenizer_config.json", {"chat_template": ""})
    put(tmp_path, "chat_template.json", {"chat_template": [{"name": 5, "template": "no"}, {"name": "x"}, 7]})
    assert chat_template_in(tmp_path) == ""
    put(tmp_path, "chat_template.json", {"chat_template": "{{ later }}"})
    assert chat_template_in(tmp_path) == "{{ later }}"
    (tmp_path / "chat_template.jinja").write_text("{{ x }}")
    monkeypatch.setattr(tokenizer_files, "MAX_TEMPLATE", 7)
    assert chat_template_in(tmp_path) == "{{ x }}"
    monkeypatch.setattr(tokenizer_files, "MAX_TEMPLATE", 6)
    with pytest.raises(ModelLoadError, match=r"chat_template\.jinja: its chat template is longer than 6 bytes"):
        chat_template_in(tmp_path)


def test_a_chat_template_that_is_no_text_is_no_half_template(tmp_path: Path) -> None:
    put(tmp_path, "tokenizer_config.json", {"chat_template": "{{ x }}\ud800"})
    with pytest.raises(ModelLoadError, match=r"tokenizer_config\.json: its chat template is no text in UTF-8"):
        chat_template_in(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ x }}\xff")
    with pytest.raises(ModelLoadError, match=r"chat_template\.jinja: its chat template is no text in UTF-8"):
        chat_template_in(tmp_path)
