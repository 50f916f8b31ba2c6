"""What the two READMEs say is true: excerpts of bots.yaml are accepted, every option and size is told, both agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from chatbridge_transformers import memory
from chatbridge_transformers.options import TransformersOptions

from chatbridge import Plugins, TensorInfo
from chatbridge.testing import Document, readmes

READMES = readmes(Path(__file__).parents[1])
FAMILIES = ("alpaca", "alpaca-lora", "chinese-alpaca", "belle-bloom", "belle-llama-ext")
SIZES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008}),
    ("llama", {"vocab_size": 49954, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008}),
    ("llama", {"vocab_size": 32000, "hidden_size": 5120, "num_hidden_layers": 40, "intermediate_size": 13824}),
    ("bloom", {"vocab_size": 250880, "hidden_size": 4096, "n_layer": 30, "n_head": 32}),
]
"""The published models of the memory table, in its order."""


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_excerpt_is_accepted(readme: Document, tmp_path: Path) -> None:
    assert all(any(f"template: {name}\n" in block for block in readme.blocks("yaml")) for name in FAMILIES)
    for settings in readme.settings(tmp_path, Plugins()):
        for model in settings.models.values():
            assert isinstance(model.options, TransformersOptions)


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_option_is_told(readme: Document) -> None:
    told = readme.options()
    assert list(told) == list(TransformersOptions.model_fields)
    for name, field in TransformersOptions.model_fields.items():
        if isinstance(field.default, (bool, int, float, str)):
            assert told[name][0] == str(field.default).lower(), name
        if readme == READMES[0]:
            assert told[name][1] == (field.description or "").rstrip("."), name


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_the_memory_table_is_what_is_reckoned_before_loading(readme: Document) -> None:
    rows = [row for row in readme.rows(5) if row[1].endswith("GiB")]
    assert len(rows) == len(SIZES)
    for row, (kind, config) in zip(rows, SIZES, strict=True):
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **config))
        tensors = {
            name: TensorInfo(tuple(value.shape), "float16", 2 * value.numel())
            for name, value in model.named_parameters()
        }
        ways = (("float32", None), ("float16", None), ("float16", "int8"), ("float16", "nf4"))
        assert row[1:] == [memory.gib(memory.needed(tensors, *way)) for way in ways]


def test_both_languages_say_the_same() -> None:
    english, chinese = READMES
    assert english.blocks("yaml") == chinese.blocks("yaml")
    assert english.shape() == chinese.shape()
