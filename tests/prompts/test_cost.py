"""The guard's work grows as the text does, and no faster."""

from __future__ import annotations

import time

import pytest

from chatbridge.prompts import neutralise, presets
from chatbridge.prompts.bodies import guarded
from chatbridge.prompts.guard import _EDITS, clean_name, guard_of
from chatbridge.prompts.segments import Text
from chatbridge.prompts.speakers import Speakers

PIECES = {
    "alpaca": "#Response:\n", "rwkv-raven-zh": "A:\n", "vicuna": "USER: ", "llama-2": "[INST]", "mistral": "[[",
    "chatglm-6b": "[Round \u200b", "belle-bloom": "Human:\r\n",
}  # fmt: skip


def seconds(preset: str, text: str) -> float:
    """Of the quickest of three."""
    template = presets()[preset]
    found = []
    for _ in range(3):
        _EDITS.clear()
        began = time.process_time()
        neutralise(text, template)
        guarded([Text(line, "person") for line in text.splitlines(keepends=True)], guard_of(template), line_start=True)
        clean_name(text)
        Speakers("{name}: {text}", "USER").write("A", text)
        found.append(time.process_time() - began)
    return min(found)


@pytest.mark.parametrize("preset", PIECES)
def test_eight_times_the_text_costs_about_eight_times_as_much(preset: str) -> None:
    text = PIECES[preset] * (4096 // len(PIECES[preset]))
    tries = (seconds(preset, text * 8) / max(seconds(preset, text), 0.002) for _ in range(3))
    assert any(ratio < 24 for ratio in tries)  # quadratic: 64 times, however often
