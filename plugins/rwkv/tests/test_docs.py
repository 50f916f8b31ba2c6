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
from chatbridge.testing import Document, readmes

READMES = readmes(Path(__file__).parents[1])


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_excerpt_is_accepted(readme: Document, tmp_path: Path) -> None:
    for name in ("rwkv-raven", "rwkv-raven-zh", "rwkv-world"):
        assert any(f"template: {name}" in block for block in readme.blocks("yaml"))
    plugins = Plugins()
    for settings in readme.settings(tmp_path, plugins):
        for model in settings.models.values():
            assert isinstance(model.options, RwkvOptions)
        for command in settings.defaults.aliases.values():
            assert command.removeprefix("/") in plugins.chat_commands


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_option_is_told(readme: Document) -> None:
    rows = {row[0].strip("`"): row for row in readme.rows(3) if row[0].strip("`") in RwkvOptions.model_fields}
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


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_strategies_by_hardware_are_strategies(readme: Document) -> None:
    told = [text for row in readme.rows(3) for text in re.findall(r"`((?:cpu|cuda)(?::\d)? [^`]*)`", " ".join(row))]
    assert len(told) > 9
    for text in told:
        parse(text)


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_commands_are_told(readme: Document) -> None:
    for command in commands():
        assert f"/{command.name}" in readme.text
    for name in re.findall(r"^chatbridge states (\w+)", readme.text, re.MULTILINE):
        assert isinstance(states.get_command(click.Context(states), name), click.Command)


def test_both_languages_say_the_same() -> None:
    english, chinese = READMES
    assert english.blocks("yaml") == chinese.blocks("yaml")
    assert english.shape() == chinese.shape()
