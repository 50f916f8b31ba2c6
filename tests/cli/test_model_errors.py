"""Errors of `chatbridge model …`: each names the place once, and whatever is called an error ends the command with 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chatbridge.cli import main
from chatbridge.testing import fixtures
from tests.model_tools.merging import copied

LLAMA = fixtures() / "llama"
Told = Callable[..., tuple[int, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """How `model …` ends, and what it says."""

    def told(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(("model", *map(str, arguments)))
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out + printed.err

    return told


def _cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:300])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut weights": lambda folder: [_cut(folder, file.name) for file in folder.glob("*.safetensors")],
    "cut config": lambda folder: _cut(folder, "config.json"),
    "no weights": lambda folder: [file.unlink() for file in folder.glob("*.safetensors")],
    "empty config": lambda folder: (folder / "config.json").write_text("{}"),
    "wrong heads": lambda folder: _set(folder, num_attention_heads=0),
    "wrong width": lambda folder: _set(folder, hidden_size=128),
    "heads that don't divide": lambda folder: _set(folder, num_attention_heads=3, num_key_value_heads=3),
    "an unknown activation": lambda folder: _set(folder, hidden_act="gelu"),
    "a cut tokenizer": lambda folder: _cut(folder, "tokenizer.model"),
    "nothing": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


def _set(folder: Path, **keys: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_place_is_named_once(told: Told, tmp_path: Path, damage: str) -> None:
    place = copied(LLAMA / "hf", tmp_path / "a-folder-with-a-rather-long-name-that-nobody-reads-twice")
    DAMAGES[damage](place)
    out = tmp_path / "out"
    count = 0
    for arguments in (
        ("convert", place, "-t", "f16", "-o", out), ("convert", place, "-t", "meta", "-o", out),
        ("merge", place, LLAMA / "alpaca-lora", "-o", out, "--to", "meta"), ("plan", place),
    ):  # fmt: skip
        code, words = told(*arguments)
        if "Traceback" in words or code == 0:
            assert code == 0, words
            continue
        count += 1
        assert words.count(place.name) <= 1, words
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)
    assert count


@pytest.mark.parametrize("keys", [{"lora_alpha": -16}, {"r": 0}, {"peft_type": "LOHA"}, {"target_modules": ["x"]}])
def test_an_adapters_place_is_named_once(told: Told, tmp_path: Path, keys: dict[str, object]) -> None:
    place = copied(LLAMA / "alpaca-lora", tmp_path / "an-adapter-of-a-long-name", "adapter_config.json", **keys)
    for arguments in (
        ("convert", place, "-t", "f16", "-o", tmp_path / "out", "--base", LLAMA / "hf"),
        ("merge", LLAMA / "hf", place, "-o", tmp_path / "out"),
    ):
        code, words = told(*arguments)
        assert (code, words.count(place.name)) == (1, 1), words
