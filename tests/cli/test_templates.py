"""`chatbridge templates`: every preset can be shown, in colours and with the ids of a model."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from chatbridge import Plugins
from chatbridge.cli import main
from chatbridge.cli.templates import ANSWER, COLORS, LEGEND
from chatbridge.prompts import presets

Run = Callable[..., subprocess.CompletedProcess[str]]
SHOWABLE = [name for name, template in presets().items() if template.jinja != "model"]


def call(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_preset_is_listed_and_plugins_templates_behind_them(capsys: pytest.CaptureFixture[str]) -> None:
    call("templates")
    lines = capsys.readouterr().out.splitlines()
    templates = Plugins().templates
    assert [line.split()[0] for line in lines] == list(templates)
    assert list(templates)[: len(presets())] == list(presets())
    for line, template in zip(lines, templates.values(), strict=True):
        assert line.endswith(template.summary)


def test_templates_of_ones_own_are_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = "templates: {letter: {extends: alpaca, summary: written by hand}}\n"
    (tmp_path / "bots.yaml").write_text(text, encoding="utf-8")
    call("templates")
    assert "letter             written by hand\n" in capsys.readouterr().out
    call("templates", "show", "letter")
    assert "### Response:" in capsys.readouterr().out


@pytest.mark.parametrize("name", SHOWABLE)
def test_every_preset_can_be_shown(capsys: pytest.CaptureFixture[str], name: str) -> None:
    call("templates", "show", name)
    told = capsys.readouterr().out
    rows, legend = told.split("\n\n")
    assert {row.split()[0] for row in rows.splitlines()} <= LEGEND.keys()
    assert "Hello! Who are you?" in rows
    assert "\x1b" not in told
    assert [line.split()[0] for line in legend.splitlines()] == list(LEGEND)
    # What a person typed stays text, whatever it looks like.
    assert re.search(r"(?m)^person .*forge a turn", rows)


@pytest.mark.parametrize("name", SHOWABLE)
def test_colors_say_whom_each_piece_is_from(capsys: pytest.CaptureFixture[str], name: str) -> None:
    call("templates", "show", name, "--color", "always")
    told = capsys.readouterr().out
    assert click.style("Hello! Who are you?", fg=COLORS["person"]) in told
    assert click.style(ANSWER, fg=COLORS["reply"]) in told or name == "glm-130b"
    call("templates", "show", name, "--color", "never")
    assert "\x1b" not in capsys.readouterr().out


def test_a_terminal_gets_colors_unless_it_asks_for_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    call("templates", "show", "alpaca")
    assert "\x1b" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    call("templates", "show", "alpaca")
    assert "\x1b" not in capsys.readouterr().out


TOY = """
    from chatbridge import hookimpl

    @hookimpl
    def register_backends():
        from chatbridge.testing import toy_backend
        return [toy_backend]
"""
MODELS = "models: {t: {backend: toy, template: chatml}}\n"


def test_a_models_own_ids_are_shown(chatbridge: Run, install: Callable[..., Path], tmp_path: Path) -> None:
    install("toyland", TOY)
    (tmp_path / "bots.yaml").write_text(MODELS, encoding="utf-8")
    done = chatbridge("templates", "show", "chatml", "--model", "t")
    assert (done.returncode, done.stderr) == (0, "")
    count, ids = re.findall(r"(?m)^(\d+) tokens: ([\d ]+)$", done.stdout)[0]
    tokens = [int(id) for id in ids.split()]
    assert len(tokens) == int(count)
    # One id for each byte, and the control tokens where the template has them.
    start, end = 258, 259
    assert tokens.count(start) >= 4
    assert bytes(id for id in tokens if id < 256).decode().count("Hello! Who are you?") == 1
    last = len(tokens) - 1 - tokens[::-1].index(start)
    assert bytes(tokens[last + 1 :]).decode() == "assistant\n"
    typed = tokens[tokens.index(end, tokens.index(start)) :]
    assert b"<|im_end|>" in bytes(id if id < 256 else 0 for id in typed), "what a person typed is no control token"


def test_a_model_that_cannot_be_loaded_says_why(chatbridge: Run, install: Callable[..., Path], tmp_path: Path) -> None:
    install("toyland", TOY)
    (tmp_path / "bots.yaml").write_text("models: {t: {backend: toy, fail_load: no letters left}}\n", encoding="utf-8")
    done = chatbridge("templates", "show", "chatml", "--model", "t")
    assert done.returncode == 1
    assert "no letters left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_template_is_shown_with_the_model_s_options(
    chatbridge: Run, install: Callable[..., Path], tmp_path: Path
) -> None:
    install("toyland", TOY)
    (tmp_path / "bots.yaml").write_text(
        "models: {t: {backend: toy, template: own, template_options: {effort: high}}}\n"
        "templates: {own: {jinja: '{{ effort }}{% for m in messages %}/{{ m.role }} {{ m.content }}{% endfor %}'}}\n",
        encoding="utf-8",
    )
    assert "'high/user '" in chatbridge("templates", "show", "own", "--model", "t").stdout
    plain = chatbridge("templates", "show", "chatml", "--model", "t")
    assert plain.returncode == 0, "they are its own template's"
