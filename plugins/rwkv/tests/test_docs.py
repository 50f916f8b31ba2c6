"""What the two READMEs say is true: every excerpt of bots.yaml is accepted, every option is told, both say the same."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from chatbridge_rwkv.chat import commands
from chatbridge_rwkv.cli import states
from chatbridge_rwkv.options import STATES, RwkvOptions
from chatbridge_rwkv.strategy import parse

from chatbridge import Plugins
from chatbridge.config import load

ROOM = Path(__file__).parents[1]
READMES = [ROOM / "README.md", ROOM / "README.zh.md"]


def blocks(readme: Path, language: str) -> list[str]:
    text = readme.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def table(readme: Path, columns: int) -> list[list[str]]:
    """The rows of all tables with so many columns."""
    lines = readme.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [row for row in rows if len(row) == columns]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_excerpt_is_accepted(readme: Path, tmp_path: Path) -> None:
    found = blocks(readme, "yaml")
    for name in ("rwkv-raven", "rwkv-raven-zh", "rwkv-world"):
        assert any(f"template: {name}" in block for block in found)
    plugins = Plugins()
    for number, block in enumerate(found):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block, encoding="utf-8")
        settings = load(file, plugins)
        for model in settings.models.values():
            assert isinstance(model.options, RwkvOptions)
        for command in settings.defaults.aliases.values():
            assert command.removeprefix("/") in plugins.chat_commands


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_option_is_told(readme: Path) -> None:
    rows = {row[0].strip("`"): row for row in table(readme, 3) if row[0].strip("`") in RwkvOptions.model_fields}
    assert list(rows) == list(RwkvOptions.model_fields)
    for name, field in RwkvOptions.model_fields.items():
        default = field.default
        if isinstance(default, (bool, int, float)):
            assert rows[name][1] == str(default).lower(), name
    assert rows["keep_states"][1] == STATES
    if readme == READMES[0]:
        for name, field in RwkvOptions.model_fields.items():
            first = (field.description or "").rstrip(".").split(";")[0]
            assert rows[name][2].startswith(first), name


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_strategies_by_hardware_are_strategies(readme: Path) -> None:
    told = [text for row in table(readme, 3) for text in re.findall(r"`((?:cpu|cuda)(?::\d)? [^`]*)`", " ".join(row))]
    assert len(told) > 9
    for text in told:
        parse(text)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_commands_are_told(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    for command in commands():
        assert f"/{command.name}" in text
    for name in re.findall(r"^chatbridge states (\w+)", text, re.MULTILINE):
        assert isinstance(states.get_command(click.Context(states), name), click.Command)


def test_both_languages_say_the_same() -> None:
    english, chinese = READMES
    for language in ("sh", "yaml"):
        assert blocks(english, language) == blocks(chinese, language)
    shapes = []
    for readme in READMES:
        text = readme.read_text(encoding="utf-8")
        shapes.append(
            (
                re.findall(r"^(#+) ", text, re.MULTILINE),
                [line.count("|") for line in text.splitlines() if line.startswith("|")],
                sorted(re.findall(r"\d+(?:\.\d+)?", re.sub(r"```.*?```", "", text, flags=re.DOTALL))),
            )
        )
    assert shapes[0] == shapes[1]
