"""What files beside a tokenizer say of added and special tokens, and which of them has the last word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbridge.model_tools.gguf.added_tokens import AddedToken, Beside


def read(folder: Path, **files: object) -> Beside:
    for name, written in files.items():
        (folder / f"{name}.json").write_text(json.dumps(written), encoding="utf-8")
    return Beside.read(folder)


def test_a_folder_without_files_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == Beside()


def test_special_tokens_are_written_plainly_or_as_objects(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": 5, "unk_token": {"content": 7}, "add_bos_token": False}
    named = {"bos_token": "no", "eos_token": "</s>", "pad_token": "<p>", "x_token": "x"}
    found = read(tmp_path, tokenizer_config={**config, "add_eos_token": "yes"}, special_tokens_map=named)
    assert found.texts == {"bos": "<s>", "eos": "</s>", "pad": "<p>"}
    assert (found.adds, found.added, found.fast) == ({"bos": False}, {}, {})


def test_added_tokens_are_those_of_all_files(tmp_path: Path) -> None:
    listed = [
        {"id": 1, "content": "a", "special": True},
        {"id": 2, "content": "b", "special": 1},
        {"id": 3, "content": "<|c|>"},
        {"id": -1, "content": "no"},
        {"id": 1 << 31, "content": "no"},
        {"id": (1 << 31) - 1, "content": "last"},
        {"id": 4, "content": 5},
        {"id": "5", "content": "no"},
        7,
    ]
    plain = {"d": 1, "<x>": 6, "more": 7, "<pad>": 0}
    decoder = {
        "2": {"content": "B", "special": True}, "8": {"content": "e"}, "9": "f", "1" * 10: {"content": "g"},
        "-2": {"content": "h"},
    }  # fmt: skip
    found = read(
        tmp_path,
        tokenizer={"added_tokens": listed},
        added_tokens=plain,
        special_tokens_map={"eos_token": "<x>", "additional_special_tokens": ["more", {"content": "z"}]},
        tokenizer_config={"added_tokens_decoder": decoder},
    )
    assert dict(sorted(found.added.items())) == {
        0: AddedToken("<pad>", True), 1: AddedToken("a", True), 2: AddedToken("B", True), 3: AddedToken("<|c|>", True),
        6: AddedToken("<x>", True), 7: AddedToken("more", True), 8: AddedToken("e", False),
        (1 << 31) - 1: AddedToken("last", False),
    }  # fmt: skip
    odd = read(
        tmp_path,
        tokenizer={"added_tokens": {"a": 1}},
        tokenizer_config={"added_tokens_decoder": [1]},
        special_tokens_map={"additional_special_tokens": "more"},
    )
    assert odd.added == {0: AddedToken("<pad>", True), 1: AddedToken("d", False), 6: AddedToken("<x>", False),
                         7: AddedToken("more", False)}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "found", "notes"),
    [
        (None, {"bos": 1, "eos": 2}, []),
        (1, {"bos": 1, "eos": 2}, []),
        (0, {"bos": 1, "eos": 2}, ["bos: config.json says 0, and the tokenizer 1, which is taken"]),
        ([9, 1], {"bos": 1, "eos": 2}, ["bos: config.json says 9, and the tokenizer 1, which is taken"]),
        ([], {"bos": 1, "eos": 2}, []),
        (10, {"bos": 1, "eos": 2}, []),
        (-1, {"bos": 1, "eos": 2}, []),
        (True, {"bos": 1, "eos": 2}, []),
    ],
)
def test_the_tokenizer_is_believed_before_the_configuration(
    said: object, found: dict[str, int], notes: list[str]
) -> None:
    beside = Beside(texts={"bos": "<s>", "sep": "nowhere"})
    assert beside.special_ids({"<s>": 1}, {"eos": 2, "bos": 5}, {"bos_token_id": said}, 10) == (found, notes)


@pytest.mark.parametrize(("said", "found"), [(0, {"pad": 0}), (9, {"pad": 9}), (10, {}), (True, {}), ("1", {})])
def test_the_configuration_is_believed_last(said: object, found: dict[str, int]) -> None:
    assert Beside().special_ids({}, {}, {"pad_token_id": said}, 10) == (found, [])
