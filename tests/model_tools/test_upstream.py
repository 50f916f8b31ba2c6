"""What is made of models of Hugging Face's form is what llama.cpp's own converter makes of them, but for what is named.

The records are made by `upstream.py`. Each difference stands here with its reason: one that is not named fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.cli.model.convert import convert

from .samples import SAMPLES
from .upstream import RECORDS, contents, shortened

REASONS = {
    "general.name": "the folder's name, which theirs writes with capitals or guesses from what was the model's path",
    "add_space_prefix": "is said always; theirs leaves it to llama.cpp's own default, which is the same",
    "unknown_token_id": "is said by the tokenizer; theirs looks into config.json alone",
    "add_bos_token": "is said always: such a tokenizer adds none",
    "add_eos_token": "is said always: such a tokenizer adds none",
    "add_sep_token": "nothing in a chat has it",
    "vocab_size": "is said always; llama.cpp counts the tokens otherwise",
    "key_length": "is said always; llama.cpp divides the width by the heads otherwise",
    "value_length": "is said always; llama.cpp divides the width by the heads otherwise",
    "dimension_count": "is said always; it is the width of a head",
    "bloom.context_length": "seq_length, or 2,048 which BLOOM was trained with; theirs takes its width for it",
    "token_type": "what special_tokens_map.json names is a control token; theirs calls it a word of the user's",
    "size_label": "a head that is the embedding is not counted twice",
    "output.weight": "a head that is the embedding is not stored twice",
    "chatbridge.template": "the preset that fits the source, which theirs knows nothing of",
    "chatbridge.tokenizer.nfc": "whether the tokenizer normalises texts, which theirs does not tell",
    "rope_freqs.weight": "is computed in 64 bits before it is rounded; the last bit may differ",
}
"""Why a key or tensor may be another one, or only on one side."""

SAID = {"add_bos_token", "add_eos_token", "vocab_size", "dimension_count"}
EXPECTED = {
    "llama": {"add_space_prefix", "unknown_token_id"},
    "bloom": {
        "add_bos_token",
        "add_eos_token",
        "vocab_size",
        "bloom.context_length",
        "size_label",
        "output.weight",
        "chatbridge.template",
        "chatbridge.tokenizer.nfc",
    },
    "chinese": {"add_space_prefix", "unknown_token_id", "token_type"},
    "linear": {"unknown_token_id"},
    "qwen2": {*SAID, "key_length", "value_length", "chatbridge.tokenizer.nfc"},
    "qwen3": {*SAID, "chatbridge.template", "chatbridge.tokenizer.nfc"},
    "llama3": {"add_eos_token", "add_sep_token", "rope_freqs.weight", "chatbridge.tokenizer.nfc"},
}


@pytest.fixture(scope="module", params=SAMPLES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    """The sample's name; the keys and tensors that are made of it; those of the record."""
    folder = tmp_path_factory.mktemp("upstream")
    made = convert(SAMPLES[request.param](folder / "source"), folder / "model.gguf", "f16", {})
    recorded = json.loads((RECORDS / f"{request.param}.json").read_text(encoding="utf-8"))
    return request.param, contents(made), (recorded["keys"], recorded["tensors"])


def reasons(apart: set[str]) -> set[str]:
    return {next((end for end in REASONS if name.endswith(end)), name) for name in apart}


def test_each_key_and_tensor_is_theirs_or_has_a_reason(both: tuple[str, Any, Any]) -> None:
    name, (keys, tensors), (their_keys, their_tensors) = both
    ours = {key: shortened(value) for key, value in keys.items()}
    apart = {key for key in ours.keys() | their_keys.keys() if ours.get(key) != their_keys.get(key)}
    apart |= {one for one in tensors.keys() | their_tensors.keys() if tensors.get(one) != their_tensors.get(one)}
    assert reasons(apart) == {*EXPECTED[name], "general.name"}


def test_kinds_of_tokens_differ_in_the_padding_token_alone(tmp_path: Path) -> None:
    keys, _ = contents(convert(SAMPLES["chinese"](tmp_path / "source"), tmp_path / "model.gguf", "f16", {}))
    kinds = keys["tokenizer.ggml.token_type"]
    assert (kinds[691], kinds[692], keys["tokenizer.ggml.tokens"][691]) == (3, 5, "[PAD]")
    kinds[691] = 4
    recorded = json.loads((RECORDS / "chinese.json").read_text(encoding="utf-8"))["keys"]
    assert shortened(kinds) == recorded["tokenizer.ggml.token_type"]


def test_stretched_waves_differ_in_the_last_bit_at_most(tmp_path: Path) -> None:
    _, tensors = contents(convert(SAMPLES["llama3"](tmp_path / "source"), tmp_path / "model.gguf", "f16", {}))
    recorded = json.loads((RECORDS / "llama3.json").read_text(encoding="utf-8"))["tensors"]
    ours, theirs = tensors["rope_freqs.weight"][2], recorded["rope_freqs.weight"][2]
    np.testing.assert_allclose(ours, theirs, rtol=2.5e-7)
    assert len({round(factor, 3) for factor in ours}) == 3  # short waves, long ones, and one between them
