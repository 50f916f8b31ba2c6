"""The contract of published vocabularies, held against tokenizers that break it; and how their files are read."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from chatbridge.prompts import Tokenizer
from chatbridge.testing import OpenVocabulary, PublishedVocabulariesContract, mixed_texts, published_vocabularies
from chatbridge.testing.published import VARIABLE, recorded_ids

CONTROLS = {"<|user|>": 300, "</s>": 301}


class Bytes:
    """One id a byte; `fault`: what it does wrong."""

    def __init__(self, fault: str = "") -> None:
        self._fault = fault

    def encode(self, text: str, *, start: bool) -> list[int]:
        ids = [*unicodedata.normalize("NFC", text).encode()]
        if self._fault == "lossy":
            ids = [token for token in ids if token != ord("o")]
        if self._fault == "forged" and "<|user|>" in text:
            ids.append(300)
        if self._fault == "start" and not start:
            ids.insert(0, 32)
        return ids

    def special(self, token: str) -> int | None:
        return CONTROLS.get(token)

    def decode(self, tokens: Sequence[int]) -> bytes:
        raw = bytes(token for token in tokens if token < 256)
        return raw.upper() if self._fault == "together" and len(tokens) > 1 else raw


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A vocabulary with two texts and their ids beside it."""
    (tmp_path / "bytes.gguf.inp").write_text("hi\n__ggml_vocab_test__\n\n\n__ggml_vocab_test__\nwho", encoding="utf-8")
    (tmp_path / "bytes.gguf.out").write_text(" 104 105\n 10\n 119 104 111\n", encoding="utf-8")
    (tmp_path / "bytes.gguf").touch()
    return tmp_path / "bytes.gguf"


def test_texts_and_ids_are_read_from_the_files_beside_a_vocabulary(path: Path) -> None:
    assert recorded_ids(path) == [("hi", [104, 105]), ("\n", [10]), ("who", [119, 104, 111])]
    assert recorded_ids(path.with_name("other.gguf")) == []


def test_vocabularies_are_those_of_the_folder_that_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert published_vocabularies() == []
    monkeypatch.setenv(VARIABLE, str(path.parent))
    assert published_vocabularies() == [path]


def test_texts_are_the_same_for_the_same_seed() -> None:
    assert list(mixed_texts(20)) == list(mixed_texts(20))
    assert list(mixed_texts(20)) != list(mixed_texts(20, seed=2))


@pytest.mark.parametrize(
    ("fault", "failing"),
    [
        ("", set()),
        ("lossy", {"recorded_texts", "texts_come_back"}),
        ("forged", {"no_text"}),
        ("start", {"texts_come_back"}),
        ("together", {"texts_come_back"}),
    ],
)
def test_each_fault_of_a_tokenizer_fails_what_is_said_of_it(path: Path, fault: str, failing: set[str]) -> None:
    def open_vocabulary(_: Path) -> tuple[Tokenizer, Mapping[str, int]]:
        return Bytes(fault), CONTROLS

    opened: OpenVocabulary = open_vocabulary
    contract = PublishedVocabulariesContract()
    tests = {
        "recorded_texts": contract.test_recorded_texts_give_the_recorded_ids,
        "texts_come_back": contract.test_texts_come_back_whole_and_token_by_token,
        "cut": contract.test_a_text_that_is_cut_in_two_has_the_same_ids,
        "no_text": contract.test_no_text_becomes_a_control_token,
    }
    failed = set()
    for name, test in tests.items():
        try:
            test(path, opened)
        except AssertionError:
            failed.add(name)
    assert failed == failing
