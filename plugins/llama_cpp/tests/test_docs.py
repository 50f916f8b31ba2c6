"""What the two READMEs say is true: every excerpt of bots.yaml is accepted, every option is told, both say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chatbridge_llama_cpp.loading import REBUILD
from chatbridge_llama_cpp.options import LlamaOptions

from chatbridge import Plugins
from chatbridge.config import load

ROOM = Path(__file__).parents[1]
READMES = [ROOM / "README.md", ROOM / "README.zh.md"]


def blocks(readme: Path, language: str) -> list[str]:
    text = readme.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_excerpt_is_accepted(readme: Path, tmp_path: Path) -> None:
    found = blocks(readme, "yaml")
    families = ("llama-2", "alpaca-lora", "chinese-alpaca", "belle-llama-ext", "belle-bloom")
    assert all(any(f"template: {name}\n" in block for block in found) for name in families)
    for number, block in enumerate(found):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block, encoding="utf-8")
        for model in load(file, Plugins()).models.values():
            assert isinstance(model.options, LlamaOptions)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_option_is_told_with_its_flag(readme: Path) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| (.*) \|$", readme.read_text(encoding="utf-8"), re.MULTILINE))
    assert list(rows) == list(LlamaOptions.model_fields)
    for name, field in LlamaOptions.model_fields.items():
        flags = re.findall(r"(?<![\w-])--?[a-z][\w-]*", field.description or "")
        assert flags or name == "draft", name
        assert all(flag in rows[name] for flag in flags), name


def test_both_languages_say_the_same() -> None:
    english, chinese = READMES
    for language in ("sh", "yaml"):
        assert blocks(english, language) == blocks(chinese, language)
    headings = [re.findall(r"^(#+) ", readme.read_text(encoding="utf-8"), re.MULTILINE) for readme in READMES]
    assert headings[0] == headings[1]


def test_the_line_in_error_messages_is_in_the_readme() -> None:
    assert f"{REBUILD}\n" in blocks(READMES[0], "sh")
