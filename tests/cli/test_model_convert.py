"""`chatbridge model convert`: what it is given, what it says, and how it ends. What is made is tested elsewhere."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge import ModelDescription
from chatbridge.cli import cli, main
from chatbridge.cli.model.making import lacks, next_step, stoppable
from chatbridge.model_files.inspect import inspect_model
from chatbridge.plugins.manager import Plugins
from chatbridge.plugins.packages import install_command
from chatbridge.testing import fixtures

LLAMA = fixtures() / "llama"
Convert = Callable[..., tuple[int, str, str]]


@pytest.fixture
def convert(capsys: pytest.CaptureFixture[str]) -> Convert:
    """How `model convert` ends, what it prints, and what it says of errors."""

    def convert(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(("model", "convert", *map(str, arguments)))
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    return convert


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    shutil.copytree(LLAMA / "meta-1shard", tmp_path / "meta")
    shutil.copy(LLAMA / "tokenizer.model", tmp_path / "meta")
    return tmp_path / "meta"


def test_what_was_made_is_told_with_what_to_do_next(convert: Convert, meta: Path, tmp_path: Path) -> None:
    install = "" if "transformers" in Plugins().backends else f", after {install_command('backend', 'transformers')}"
    for source, target, more, told in (
        (meta, "f16", ("--template", "alpaca"), "Talk to it: chatbridge repl -m"),
        (meta, "hf", ("--template", "alpaca"), f"Talk to it{install}: chatbridge repl -m"),
        (LLAMA / "hf", "meta", ("--parts", 2), "Look at it: chatbridge model inspect"),
        (LLAMA / "alpaca-lora", "f32", ("--base", meta), "Look at it: chatbridge model inspect"),
    ):
        out = tmp_path / f"a {target}"
        code, printed, _ = convert(source, "-o", out, "--to", target, *more)
        assert code == 0
        assert printed == f"{out} is made. {told} {shlex.quote(str(out))}\n"
    assert sorted(file.name for file in (tmp_path / "a meta").glob("*.pth")) == [
        "consolidated.00.pth", "consolidated.01.pth",
    ]  # fmt: skip


def test_the_report_has_the_command(
    convert: Convert, meta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["model", "convert", str(meta), "-o", str(tmp_path / "hf"), "--to", "hf"]
    monkeypatch.setattr("sys.argv", ["chatbridge", *arguments])
    assert convert(*arguments[2:])[0] == 0
    told = json.loads((tmp_path / "hf" / "chatbridge-report.json").read_text(encoding="utf-8"))
    assert told["command"] == shlex.join(["chatbridge", *arguments])
    assert [step["step"] for step in told["steps"]] == ["convert", "note"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--to", "hf", "--base", "x"), "--base is not for making 'hf' of this"),
        (("--to", "f16", "--parts", 2), "--parts is not for making 'f16' of this"),
        (("--to", "int4"), "of which no 'int4' is made; give one of: f32, f16, bf16, q8_0, hf, meta"),
    ],
)
def test_what_is_of_no_use_is_refused(
    convert: Convert, meta: Path, tmp_path: Path, arguments: tuple[object, ...], told: str
) -> None:
    code, printed, errors = convert(meta, "-o", tmp_path / "out", *arguments)
    assert (code, printed) == (1, "")
    assert told in " ".join(errors.split())
    assert {file.name for file in tmp_path.iterdir()} == {"meta"}


def test_ctrl_c_says_what_is_left_and_what_to_do_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> str:
        with pytest.raises(SystemExit) as ended, stoppable(tmp_path / "out"):
            raise KeyboardInterrupt
        assert ended.value.code == 130
        return capsys.readouterr().err

    assert stopped() == "stopped; nothing is left of it\n"
    (tmp_path / "out.partial").mkdir()
    assert f"what is done is in {tmp_path / 'out.partial'}: the same command goes on with it" in stopped()


def test_ctrl_c_is_no_failure_of_what_was_asked(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        "import click",
        "from chatbridge import hookimpl",
        "@click.command()",
        "def slow(): raise KeyboardInterrupt",
        "@hookimpl",
        "def register_commands(cli): cli.add_command(slow)",
    )
    install("slow", "\n".join(lines))
    monkeypatch.setattr(cli, "plugins", Plugins(), raising=False)  # the group keeps those of the first command
    with pytest.raises(SystemExit) as ended:
        main(["slow"])
    assert (ended.value.code, *capsys.readouterr()) == (130, "", "")


def test_names_that_begin_with_a_dash_can_be_copied(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, printed, _ = convert(LLAMA / "alpaca-lora", "-o", "-a b", "-t", "f32", "--base", LLAMA / "hf")
    assert printed.endswith("chatbridge model inspect './-a b'\n")


def test_what_is_there_already_is_left_alone(convert: Convert, meta: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    code, _, errors = convert(meta, "-o", tmp_path / "out", "--to", "f16")
    assert code == 1
    assert "it is there already" in errors
    assert (tmp_path / "out").read_text() == "mine"


def test_the_template_that_is_given_or_that_the_source_names_is_carried_along(
    convert: Convert, meta: Path, tmp_path: Path
) -> None:
    vicuna = meta.rename(tmp_path / "vicuna-7b")
    code, printed, told = convert(vicuna, "-o", tmp_path / "one", "--to", "hf")
    assert (code, printed.splitlines()[0].endswith(f"chatbridge repl -m {tmp_path / 'one'}")) == (0, True)
    assert "params.json says no context: 2,048 tokens" in told
    found = inspect_model(tmp_path / "one")
    assert (found.preset, found.preset_source) == ("vicuna", "as chatbridge-report.json says")
    assert convert(tmp_path / "one", "-o", tmp_path / "two.gguf", "--to", "f16")[0] == 0
    (tmp_path / "two.gguf.report.json").unlink()
    (tmp_path / "two.gguf").rename(tmp_path / "three.gguf")
    found = inspect_model(tmp_path / "three.gguf")
    assert (found.preset, found.preset_source) == ("vicuna", "as chatbridge.template says")
    assert convert(vicuna, "-o", tmp_path / "four", "--to", "hf", "--template", "alpaca")[0] == 0
    assert inspect_model(tmp_path / "four").preset == "alpaca"
    assert "template: alpaca" in inspect_model(tmp_path / "four").example


def test_a_template_that_is_not_there_is_refused(convert: Convert, meta: Path, tmp_path: Path) -> None:
    code, _, told = convert(meta, "-o", tmp_path / "a", "--to", "hf", "--template", "alpacca")
    assert (code, "did you mean 'alpaca'" in told) == (2, True)
    code, _, told = convert(meta, "-o", tmp_path / "a", "--to", "hf", "--template", "model")
    assert (code, "no chat template of its own" in told, (tmp_path / "a").exists()) == (1, True, False)


def test_what_names_no_template_is_talked_to_by_one_that_is_given(convert: Convert, meta: Path, tmp_path: Path) -> None:
    _, printed, _ = convert(meta, "-o", tmp_path / "hf", "--to", "hf")
    assert printed.rstrip().endswith(f"chatbridge repl -m {tmp_path / 'hf'} -t NAME")


def test_a_report_of_no_use_is_told_and_the_model_is_sound(convert: Convert, meta: Path, tmp_path: Path) -> None:
    assert convert(meta, "-o", tmp_path / "hf", "--to", "hf")[0] == 0
    for text, told in (('{"template": "x y"}', "names the template 'x y'"), ("{", "this is no JSON")):
        (tmp_path / "hf" / "chatbridge-report.json").write_text(text)
        found = inspect_model(tmp_path / "hf")
        assert (found.sound, found.preset) == (True, "")
        assert any(told in problem.message for problem in found.problems)


def test_a_backend_that_is_missing_is_installed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatbridge.plugins.manager.entry_points", lambda group: [])
    path = LLAMA / "hf"
    assert next_step(path) == (
        "Talk to it by the template that it was trained with (`chatbridge templates` lists them), "
        f"after {install_command('backend', 'transformers')}: chatbridge repl -m {path} -t NAME"
    )
    assert next_step(path, "qwen2.5-0.5b", "llama_cpp") == (
        f"Talk to it, after {install_command('backend', 'llama_cpp')}: chatbridge repl -m qwen2.5-0.5b"
    )


# --- what is wanted yet ----------------------------------------------------------------------------------------------


def test_what_was_made_without_a_tokenizer_is_told_with_the_file_that_is_missing() -> None:
    found = ModelDescription(Path("m"), "glm-130b", backends=("glm",))
    assert "needs its tokenizer, which is not beside it: put ice_text.model into the folder" in lacks(found)
    assert lacks(replace(found, tokens=150_000)) == ""
    raven = ModelDescription(Path("raven.pth"), "rwkv", backends=("rwkv",))
    assert "put 20B_tokenizer.json of BlinkDL/ChatRWKV beside it" in lacks(raven)
    assert lacks(replace(raven, tokenizer="20B_tokenizer.json")) == ""


def test_a_strategy_for_a_card_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"needs": "a graphics card (cuda), as its strategy says"}
    found = ModelDescription(Path("m.pth"), "rwkv", backends=("rwkv",), tokenizer="world", details=needs)
    monkeypatch.setattr("chatbridge.model_tools.planning.machine.output_of", lambda *command: "")
    assert lacks(found) == "It needs a graphics card (cuda), as its strategy says; none is seen on this machine."
    card = "0, GPU-1, 40000, A100\n"
    monkeypatch.setattr("chatbridge.model_tools.planning.machine.output_of", lambda *command: card)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if "torch" not in sys.modules:
        assert lacks(found) == ""


def test_what_can_be_made_is_told_in_plain_words() -> None:
    for converter in Plugins().converters.values():
        assert converter.spoken or "*" not in "".join(converter.makes), converter.name
