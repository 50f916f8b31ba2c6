"""Rotary angles in both spellings of transformers become the keys of a GGUF file, or factors of frequencies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from chatbridge.model_tools.gguf.rotary import Rotary, rotary_of

PLAIN: dict[str, Any] = {"rope.dimension_count": 64, "rope.freq_base": 10000.0}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_theta": 10000},
        {"rope_scaling": None},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        {"rope_scaling": {"type": "default"}},
        {"rope_theta": 5, "rope_parameters": {"rope_theta": 10000.0}},
    ],
)
def test_plain_angles_have_a_base(config: dict[str, Any]) -> None:
    assert rotary_of(config, 64) == Rotary(PLAIN)


def test_scaled_angles_have_keys_of_their_own() -> None:
    linear = {**PLAIN, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    for name in ("rope_type", "type"):
        assert rotary_of({"rope_scaling": {name: "linear", "factor": 4}}, 64) == Rotary(linear)
    written = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 100, "beta_fast": 3}
    yarn = {**PLAIN, "rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_beta_fast": 3.0,
            "rope.scaling.original_context_length": 100}  # fmt: skip
    found = rotary_of({"rope_scaling": written, "original_max_position_embeddings": 7}, 64)
    assert found == Rotary(yarn)
    assert isinstance(found.keys["rope.scaling.original_context_length"], int)
    del written["original_max_position_embeddings"]
    assert rotary_of({"rope_scaling": written, "original_max_position_embeddings": 100}, 64) == Rotary(yarn)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rope_scaling": "dynamic"}, "the rotary angles are scaled as 'dynamic'"),
        ({"rope_scaling": {"type": "linear"}}, "the rotary angles are scaled as 'linear', and factor is not said"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "and original_max_position_embeddings is not said"),
        ({"rope_theta": 0}, "rope_theta is '0'"),
        ({"rope_theta": 1e12}, "rope_theta is '1000000000000.0'"),
        ({"rope_theta": True}, "rope_theta is 'True'"),
        ({"rope_theta": "1"}, "rope_theta is '1'"),
        (
            {"rope_scaling": {"rope_type": "llama3", "low_freq_factor": 4}},
            "low_freq_factor and high_freq_factor are both 4",
        ),
    ],
)
def test_what_llama_cpp_has_no_keys_for_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rotary_of(config, 64)


def test_a_base_may_be_anything_below_a_bound() -> None:
    assert rotary_of({"rope_theta": 0.5}, 2).keys["rope.freq_base"] == 0.5
    assert rotary_of({"rope_theta": 999_999_999_999}, 2).keys["rope.freq_base"] == 999_999_999_999


def test_long_waves_are_stretched_and_short_ones_kept() -> None:
    factors = rotary_of({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3"}}, 128).factors
    assert factors is not None
    assert (factors.dtype, len(factors)) == (np.float32, 64)
    waves = [2 * math.pi * 5e5 ** (at / 128) for at in range(0, 128, 2)]
    for factor, wave in zip(factors, waves, strict=True):
        if wave < 8192 / 4:
            assert factor == 1
        elif wave > 8192 / 1:
            assert factor == 8
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            assert factor == pytest.approx(1 / ((1 - smooth) / 8 + smooth))
    between = [factor for factor in factors if 1 < factor < 8]
    assert 1 < len(between) < 20
    assert between == sorted(between)
