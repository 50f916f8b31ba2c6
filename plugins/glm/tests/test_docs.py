"""What the two READMEs say is true: every excerpt of bots.yaml is accepted, every option is told, both say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatbridge_glm import memory
from chatbridge_glm.memory import Plan
from chatbridge_glm.options import STATES, GlmOptions

from chatbridge import Plugins
from chatbridge.testing import Document, readmes

from .test_memory import CHATGLM, GLM_130B, of_size

READMES = readmes(Path(__file__).parents[1])


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_excerpt_is_accepted(readme: Document, tmp_path: Path) -> None:
    found = list(readme.settings(tmp_path, Plugins()))
    assert len(found) == 4
    for settings in found:
        for model in settings.models.values():
            assert isinstance(model.options, GlmOptions)


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_option_is_told(readme: Document) -> None:
    rows = {row[0].strip("`"): row for row in readme.rows(3) if row[0].strip("`") in GlmOptions.model_fields}
    assert list(rows) == list(GlmOptions.model_fields)
    for name, field in GlmOptions.model_fields.items():
        if isinstance(field.default, (bool, int, float, str)):
            assert rows[name][1] == str(field.default).lower(), name
    assert rows["keep_states"][1] == STATES
    if readme == READMES[0]:
        for name, field in GlmOptions.model_fields.items():
            first = (field.description or "").rstrip(".").split(";")[0]
            assert rows[name][2].startswith(first), name


def said(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_the_memory_that_is_told_is_what_is_reckoned(readme: Document) -> None:
    table = [row[3] for row in readme.rows(4) if "chatglm-6b" in row[1]]
    plans = [(4, "fp32"), (8, "fp32"), (0, "bf16"), (0, "fp32")]
    for told, (bits, dtype) in zip(table, plans, strict=True):
        assert told == said(memory.needs(of_size(CHATGLM, bits), Plan(bits, dtype, ("cpu",) * 28)).devices["cpu"])
    assert said(memory.cache_bytes(CHATGLM, "fp32") * 2048) in readme.text
    rows = [row for row in readme.rows(5) if row[1].endswith("GiB")]
    for row, bits in zip(rows, (0, 8, 4), strict=True):
        needed = memory.needs(of_size(GLM_130B, bits), Plan(bits, "fp16", ("cuda:0",) * 70))
        whole = needed.devices["cuda:0"]
        assert row[1] == said(whole)
        for cell, cards in ((row[2], 8), (row[3], 4)):
            assert cell in ("–", said(whole / cards))


def test_both_languages_say_the_same() -> None:
    english, chinese = READMES
    assert english.blocks("yaml") == chinese.blocks("yaml")
    assert english.shape() == chinese.shape()
