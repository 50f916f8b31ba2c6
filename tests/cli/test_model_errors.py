"""Errors of `chatbridge model …`: each names the place once, and what is called an error ends a command with 1."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Literal

import click
import pytest

from chatbridge import Problem, cli
from chatbridge.cli import main
from chatbridge.cli.output import echo_problem
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


# --- errors end with 1 -----------------------------------------------------------------------------------------------


def test_what_was_decrypted_and_is_no_model_ends_with_1(told: Told, tmp_path: Path) -> None:
    source, key = encrypted(tmp_path, {"config.json": b'{"model_type": "llama"}'})
    code, words = told("decrypt", source, key, "-o", tmp_path / "out")
    assert "is made, with the hashes that were published" in words
    assert "error: there are no weights here" in words
    assert code == 1


def test_what_was_decrypted_and_is_a_model_can_be_talked_to(told: Told, tmp_path: Path) -> None:
    source, key = encrypted(tmp_path, {file.name: file.read_bytes() for file in (LLAMA / "hf").iterdir()})
    code, words = told("decrypt", source, key, "-o", tmp_path / "out")
    assert code == 0, words
    assert re.search(rf"^Talk to it.* chatbridge repl -m {re.escape(str(tmp_path / 'out'))} -t NAME$", words, re.M)


def encrypted(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, Path]:
    """A folder with these files as BELLE would publish them, and the key."""
    key = Random(1).randbytes(max(map(len, files.values())))
    (folder / "enc").mkdir()
    for name, plain in files.items():
        digest = hashlib.sha256(plain).hexdigest()
        body = bytes(a ^ b for a, b in zip(plain, key, strict=False))
        (folder / "enc" / f"{name}.{digest}.enc").write_bytes(bytes.fromhex(digest) + body)
    (folder / "key").write_bytes(key)
    return folder / "enc", folder / "key"


def test_every_command_that_tells_an_error_does_so_by_the_one_way_that_ends_with_1() -> None:
    """`echo_error` marks the command as failed, which the group ends with 1; no command prints the word by itself."""
    for file in (Path(cli.__file__).parent).rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if file.name != "output.py":
            assert not re.search(r"""echo\(\s*f?["']error\b""", text), file
            assert not re.search(r"echo\(\s*f[\"'][ ]*\{problem\.severity\}", text), file


@pytest.mark.parametrize("severity", ["error", "warning", "note"])
def test_a_command_that_goes_on_after_an_error_ends_with_1(
    severity: Literal["error", "warning", "note"], capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command("trial")
    def trial() -> None:
        echo_problem(Problem(severity, "it has a hole", "mend it"))
        click.echo("done")

    group = type(cli.cli)("chatbridge", commands={})
    group.others = lambda: {"trial": trial}  # type: ignore[method-assign]
    if severity == "error":
        with pytest.raises(SystemExit) as ended:
            group(["trial"], standalone_mode=False)
        assert ended.value.code == 1
    else:
        group(["trial"], standalone_mode=False)
    printed = capsys.readouterr()
    assert (printed.err, printed.out) == (f"{severity}: it has a hole; mend it\n", "done\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("quantize", "m.gguf", "q4_0", "--dry-run", "--check"), "--dry-run makes nothing; leave one of them out"),
        (("quantize", "m.gguf", "q4_0", "--dry-run", "--check-gib", 2), "--check-gib is room for the comparison"),
        (("pull", "https://127.0.0.1:9/m.gguf", "--revision", "main"), "--revision is for a repository"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(told: Told, arguments: tuple[object, ...], words: str) -> None:
    code, said = told(*arguments)
    assert code
    assert words in " ".join(said.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", ""), ("plan", ""), ("plan", "", "--json"), ("pull", "https://127.0.0.1:9/m.gguf", "-o", ""),
        ("decrypt", "", "k", "-o", "o"), ("decrypt", "s", "", "-o", "o"), ("decrypt", "s", "k", "-o", ""),
        ("merge", "", "a", "-o", "o"), ("merge", "b", "", "-o", "o"), ("merge", "b", "a", "-o", ""),
        ("convert", "", "-t", "f16", "-o", "o"), ("convert", "s", "-t", "f16", "-o", ""),
        ("convert", "s", "-t", "f16", "-o", "o", "--base", ""), ("quantize", "", "q4_0", "-o", "o"),
        ("quantize", "s", "q4_0", "-o", ""), ("quantize", "s", "q4_0", "-o", "o", "--imatrix", ""),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_empty_word_is_no_path(told: Told, arguments: tuple[str, ...]) -> None:
    code, said = told(*arguments)
    assert code == 2
    assert "only an empty word; is a variable not set?" in said


def test_an_empty_word_is_no_model_to_talk_to(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(("repl", "-m", "", "-p", "hello"))
    assert ended.value.code == 2
    assert "only an empty word; is a variable not set?" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
@pytest.mark.parametrize("target", ["f16", "meta"])
def test_a_name_that_is_no_text_is_a_name(told: Told, tmp_path: Path, target: str) -> None:
    source = tmp_path / os.fsdecode(b"of \xff")
    shutil.copytree(LLAMA / "hf", source)
    out = tmp_path / os.fsdecode(b"made \xfe")
    assert told("convert", source, "-t", target, "-o", out)[0] == 0
    assert told("inspect", out)[0] == 0
    assert not [*tmp_path.rglob("*.partial")]
    report = out / "chatbridge-report.json" if out.is_dir() else out.with_name(f"{out.name}.report.json")
    sources = json.loads(report.read_text(encoding="utf-8"))["sources"]
    assert str(source / "config.json") in [one["path"] for one in sources]
