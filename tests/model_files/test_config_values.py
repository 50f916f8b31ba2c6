"""Values of configurations that can't be: told with file, key, value and what is expected, in whatever reads them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from chatbridge import ModelLoadError, check_adapter_config, inspect_model
from chatbridge.model_files.config_values import adapter_faults, check_model_config, model_faults
from chatbridge.testing import fixtures
from tests.model_tools.merging import copied

LLAMA = fixtures() / "llama"
GOOD: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


@pytest.mark.parametrize("key", ["lora_alpha", "r"])
@pytest.mark.parametrize("value", [-16, 0, math.nan, math.inf, "16", True, [16], None], ids=repr)
def test_an_adapters_rank_and_strength_are_numbers_above_0(tmp_path: Path, key: str, value: Any) -> None:
    (told,) = adapter_faults(GOOD | {key: value})
    said = "is not said" if value is None else f"is {value!r}"
    assert told.startswith(f"{key} {said}, and should be a ")
    adapter = copied(LLAMA / "alpaca-lora", tmp_path / "adapter", "adapter_config.json", **{key: value})
    problems = [one.message for one in inspect_model(adapter).problems if one.severity == "error"]
    assert f"adapter_config.json: {told}" in problems
    with pytest.raises(ModelLoadError, match=rf"adapter_config.json: {key} .*; take the file that was published"):
        check_adapter_config(adapter / "adapter_config.json", GOOD | {key: value})


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern for q_proj is -1, and should be a number, 0 or more"),
        ({"alpha_pattern": [1]}, "alpha_pattern is [1], and should be a table of layers"),
        ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern for q_proj is 2.5, and should be a whole number above 0"),
        ({"use_rslora": "false"}, "use_rslora is 'false', and should be true or false"),
        ({"peft_type": 1}, "peft_type is 1, and should be a text"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path is 7, and should be a text"),
    ],
)
def test_other_values_of_an_adapter(keys: dict[str, Any], told: str) -> None:
    assert next(adapter_faults(GOOD | keys)).startswith(told)


def test_layers_may_have_strengths_and_ranks_of_their_own() -> None:
    own = {"lora_alpha": 0, "alpha_pattern": {"q_proj": 4}, "rank_pattern": {"v_proj": 2}}
    assert not [*adapter_faults(GOOD | own, [2, 8])]
    assert [*adapter_faults({"peft_type": "IA3"})] == []


def test_both_ranks_are_told_where_file_and_tensors_differ() -> None:
    assert [*adapter_faults(GOOD, [4])] == ["rank: adapter_config.json says 8, and the tensors 4"]
    assert [*adapter_faults(GOOD | {"rank_pattern": {"v_proj": 2}}, [2, 4])] == [
        "rank: adapter_config.json says 8 and 2, and the tensors 2 and 4"
    ]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_attention_heads", 0, "a whole number above 0"),
        ("num_key_value_heads", -2, "a whole number above 0"),
        ("hidden_size", "64", "a whole number above 0"),
        ("vocab_size", True, "a whole number above 0"),
        ("intermediate_size", [16, 0], "a whole number above 0"),
        ("intermediate_size", [], "a whole number above 0"),
        ("hidden_size", [64], "a whole number above 0"),
        ("num_hidden_layers", [2], "a whole number above 0"),
        ("vocab_size", [480], "a whole number above 0"),
        ("rope_theta", math.nan, "a number above 0"),
        ("rms_norm_eps", 1, "a number above 0 and below 1"),
        ("tie_word_embeddings", "no", "true or false"),
        ("rope_scaling", 2, "a table of numbers"),
    ],
)
def test_values_of_a_model_are_looked_over(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    model = copied(LLAMA / "hf", tmp_path / "model", "config.json", **{key: value})
    shown = 0 if value == [16, 0] else value
    told = f"config.json: {key} is {shown!r}, and should be {expected}"
    assert told in [one.message for one in inspect_model(model).problems if one.severity == "error"]
    with pytest.raises(ModelLoadError, match=f"config.json: {key} is "):
        check_model_config(model / "config.json", {key: value})


@pytest.mark.parametrize(
    ("keys", "name", "said", "there"),
    [
        ({"head_dim": 8, "num_key_value_heads": 8}, "q_proj", 32, 64),
        ({"num_key_value_heads": 2}, "k_proj", 32, 64),
    ],
)
def test_heads_are_held_against_the_rows_of_the_weights(
    tmp_path: Path, keys: dict[str, int], name: str, said: int, there: int
) -> None:
    model = copied(LLAMA / "hf", tmp_path / "model", "config.json", **keys)
    told = [one.message for one in inspect_model(model).problems if one.severity == "error"]
    assert told == [f"rows of {name}: config.json says {said}, and the weights {there}"]
    fits = copied(LLAMA / "hf", tmp_path / "fits", "config.json", head_dim=16, num_key_value_heads=4)
    assert inspect_model(fits).sound


def test_values_that_lie_deeper_are_told_by_their_path() -> None:
    deep = {"text_config": {"rope_parameters": {"full": {"rope_theta": 0}}, "n_head": 0}}
    assert [*model_faults(deep)] == [
        "text_config.n_head is 0, and should be a whole number above 0",
        "text_config.rope_parameters.full.rope_theta is 0, and should be a number above 0",
    ]
    assert not [*model_faults({"rope_scaling": {"type": "linear", "factor": 2.0}, "n_inner": None, "vocab_size": -1})]


def test_the_configurations_of_published_models_are_sound() -> None:
    files = [*fixtures().rglob("config.json"), *fixtures().rglob("params.json")]
    assert len(files) > 5
    for file in files:
        assert not [*model_faults(json.loads(file.read_text(encoding="utf-8")))], file
    for file in fixtures().rglob("adapter_config.json"):
        check_adapter_config(file, json.loads(file.read_text(encoding="utf-8")))
