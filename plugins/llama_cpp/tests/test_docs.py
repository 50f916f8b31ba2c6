"""What the two READMEs say is true: every excerpt of bots.yaml is accepted, no option is missing, both agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chatbridge_llama_cpp.loading import REBUILD
from chatbridge_llama_cpp.options import LlamaOptions
from chatbridge_llama_cpp.quantization import QuantizeOptions

from chatbridge import Plugins
from chatbridge.testing import Document, readmes

READMES = readmes(Path(__file__).parents[1])
FAMILIES = ("llama-2", "alpaca-lora", "chinese-alpaca", "belle-llama-ext", "belle-bloom")


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_excerpt_is_accepted(readme: Document, tmp_path: Path) -> None:
    assert all(any(f"template: {name}\n" in block for block in readme.blocks("yaml")) for name in FAMILIES)
    for settings in readme.settings(tmp_path, Plugins()):
        for model in settings.models.values():
            assert isinstance(model.options, LlamaOptions)


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_option_is_there_with_its_flag(readme: Document) -> None:
    described = readme.options()
    assert list(described) == list(LlamaOptions.model_fields)
    for name, field in LlamaOptions.model_fields.items():
        flags = re.findall(r"(?<![\w-])--?[a-z][\w-]*", field.description or "")
        assert flags or name == "draft", name
        assert all(flag in described[name][1] for flag in flags), name


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_option_of_quantising_is_there(readme: Document) -> None:
    from chatbridge.cli.model.quantize import command

    flags = {f"--{name.replace('_', '-')}" for name in QuantizeOptions.model_fields}
    assert flags == {option for one in command.params for option in one.opts if option.startswith("--")} - {"--output"}
    section = readme.text.partition("chatbridge model quantize SRC -o OUT TYPE")[2].partition("\n## ")[0]
    assert flags == set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))


def test_both_languages_say_the_same() -> None:
    english, chinese = READMES
    assert english.blocks("yaml") == chinese.blocks("yaml")
    assert english.shape() == chinese.shape()


def test_the_line_in_error_messages_is_in_the_readme() -> None:
    assert f"{REBUILD}\n" in READMES[0].blocks("sh")
