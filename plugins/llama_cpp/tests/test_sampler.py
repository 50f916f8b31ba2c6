"""llama.cpp's chain of samplers chooses what the options say, and what the core's own sampler would choose from."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatbridge_llama_cpp.model import LlamaModel
from pydantic import ValidationError

from chatbridge import InvalidRequest, LogitsSampler, Row, Sampling

from .conftest import EXACT, Load

PROMPT = [1, 40, 90, 40, 200, 90, 40, 300]
DRAWS = 3000


def sampled(model: LlamaModel, draws: int = 1, generated: int = 0, **options: Any) -> list[int]:
    """So many draws after the prompt, each as the first of its answer."""
    sampling = Sampling.model_validate({"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, **options})
    state = model.new_state()
    drawn = []
    for i in range(draws):
        seeded = sampling if sampling.seed is not None else sampling.model_copy(update={"seed": i})
        row = Row(state, PROMPT[state.length :] or PROMPT[-1:], model.new_sampler(seeded, PROMPT, generated))
        drawn += model.step([row])[0]
        state.trim(len(PROMPT) - 1)
    state.release()
    return drawn


@pytest.fixture(scope="module")
def logits(random_model: LlamaModel) -> np.ndarray:
    state = random_model.new_state()
    last = random_model.logits(state, PROMPT)[-1]
    state.release()
    return last


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 7},
        {"top_k": 30, "top_p": 0.6},
        {"top_k": 12, "min_p": 0.3},
        {"top_k": 20, "typical_p": 0.5},
        {"top_k": 6, "temperature": 2.5},
        {"top_k": 5, "logit_bias": {90: 30.0, 17: 30.5}},
        {"top_k": 8, "repeat_penalty": 1.8, "logit_bias": {40: 12.0, 90: 12.0}},
        {"top_k": 8, "presence_penalty": 1.5, "frequency_penalty": 0.7, "logit_bias": {40: 12.0, 90: 12.0}},
        {"top_k": 8, "repeat_penalty": 3.0, "penalty_window": 2, "logit_bias": {40: 12.0, 90: 12.0, 200: 12.0}},
    ],
)
def test_tokens_come_as_often_as_the_options_say(
    random_model: LlamaModel, logits: np.ndarray, options: dict[str, Any]
) -> None:
    sampling = Sampling.model_validate({"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, **options})
    ids, chances = LogitsSampler(sampling, PROMPT).probabilities(logits)
    drawn = Counter(sampled(random_model, DRAWS, **options))
    assert set(drawn) <= set(ids.tolist())
    for token, chance in zip(ids.tolist(), chances.tolist(), strict=True):
        spread = 4.5 * math.sqrt(chance * (1 - chance) / DRAWS) + 1e-3
        assert abs(drawn[token] / DRAWS - chance) < spread


def test_temperature_zero_takes_the_likeliest(random_model: LlamaModel, logits: np.ndarray) -> None:
    best = int(logits.argmax())
    assert sampled(random_model, 3, temperature=0) == [best] * 3
    assert best not in sampled(random_model, 1, temperature=0, logit_bias={best: -100.0})
    assert sampled(random_model, 1, temperature=0, logit_bias={7: 100.0}) == [7]


def test_the_likeliest_under_a_bias_is_what_llama_cpp_itself_takes(
    random_model: LlamaModel, logits: np.ndarray
) -> None:
    order = [int(token) for token in logits.argsort()[::-1]]
    even = float(logits[order[0]] - logits[order[1]])
    for bias in (dict.fromkeys(order[:260], -100.0), {order[1]: even}, {order[1]: even + 0.01}, {order[3]: 1e-3}):
        ours = sampled(random_model, temperature=0, logit_bias=bias)
        # A penalty too small to change anything: with one, llama.cpp's chain chooses.
        assert ours == sampled(random_model, temperature=0, logit_bias=bias, presence_penalty=1e-9)


def test_penalties_look_at_what_was_sampled_too(random_model: LlamaModel) -> None:
    sampling = Sampling(temperature=0, repeat_penalty=10, logit_bias={5: 140.0, 6: 100.0, 7: 60.0})
    sampler = random_model.new_sampler(sampling, PROMPT, 0)
    state = random_model.new_state()
    tokens, pending = [], list(PROMPT)
    for _ in range(3):
        tokens += random_model.step([Row(state, pending, sampler)])[0]
        pending = tokens[-1:]
    state.release()
    assert tokens == [5, 6, 7]


def test_draws_depend_on_the_seed_and_their_number(random_model: LlamaModel) -> None:
    def draw(generated: int, seed: int) -> int:
        return sampled(random_model, 1, generated, seed=seed)[0]

    assert [draw(n, 3) for n in range(8)] == [draw(n, 3) for n in range(8)]
    assert len({draw(n, 3) for n in range(20)}) > 5
    assert len({draw(0, seed) for seed in range(2**63 - 20, 2**63)}) > 5


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_aims_at_a_surprise(random_path: Path, model_of: Load, version: int) -> None:
    little = model_of(random_path, **EXACT, mirostat=version, mirostat_tau=0.5)
    much = model_of(random_path, **EXACT, mirostat=version, mirostat_tau=8)
    assert len(set(sampled(little, 100))) < len(set(sampled(much, 100))) / 2
    assert sampled(much, 1, seed=4) == sampled(much, 1, seed=4)
    with pytest.raises(InvalidRequest, match="mirostat draws"):
        sampled(much, temperature=0)


def test_xtc_leaves_out_the_likeliest(random_path: Path, model_of: Load, logits: np.ndarray) -> None:
    model = model_of(random_path, **EXACT, xtc_probability=1.0, xtc_threshold=0.05)
    best = int(logits.argmax())
    assert best in sampled(model_of(random_path, **EXACT), 300, top_k=5)
    assert best not in sampled(model, 300, top_k=5, logit_bias={7: float(logits.max() - logits[7]) - 0.5})


def test_dry_breaks_off_what_was_said_before(random_path: Path, model_of: Load) -> None:
    # After 304 came 305 before: the bias makes it the likeliest again, unless DRY sees the passage come back.
    model = model_of(random_path, **EXACT, dry_multiplier=50, dry_allowed_length=2)
    prompt = [1, 301, 302, 303, 304, 305, 301, 302, 303, 304]
    sampling = Sampling(temperature=0, logit_bias={305: 80.0, 306: 50.0})
    for one, expected in ((model, 306), (model_of(random_path, **EXACT), 305)):
        state = one.new_state()
        assert one.step([Row(state, prompt, one.new_sampler(sampling, prompt, 0))]) == [[expected]]


def text(model: LlamaModel, **sampling: Any) -> str:
    options = Sampling.model_validate({"temperature": 1, "max_tokens": 200, **sampling})
    sampler = model.new_sampler(options, PROMPT, 0)
    state = model.new_state()
    tokens: list[int] = []
    pending = list(PROMPT)
    while len(tokens) < 200 and (not tokens or tokens[-1] not in model.info.eos):
        tokens += model.step([Row(state, pending, sampler)])[0]
        pending = tokens[-1:]
    state.release()
    return model.tokenizer.decode(tokens).decode()


def test_a_grammar_is_kept_to(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, grammar='root ::= ("yes" | "no") ", " [0-9]{3}')
    for seed in range(5):
        assert re.fullmatch(r"(yes|no), \d{3}", text(model, seed=seed))


def test_a_json_schema_is_kept_to(random_path: Path, model_of: Load) -> None:
    schema = {
        "type": "object",
        "properties": {"sunny": {"type": "boolean"}, "where": {"enum": ["here", "there"]}},
        "required": ["sunny", "where"],
        "additionalProperties": False,
    }
    model = model_of(random_path, **EXACT, json_schema=schema)
    answer = json.loads(text(model, seed=1))
    assert answer["sunny"] in (True, False)
    assert answer["where"] in ("here", "there")


def test_a_grammar_goes_on_in_a_new_worker(random_path: Path, model_of: Load) -> None:
    model = model_of(random_path, **EXACT, grammar='root ::= "yes, " [0-9]')
    so_far = model.tokenizer.encode("yes,", start=False)
    sampler = model.new_sampler(Sampling(temperature=0), [*PROMPT, *so_far], len(so_far))
    state = model.new_state()
    (token,) = model.step([Row(state, [*PROMPT, *so_far], sampler)])[0]
    assert model.tokenizer.decode([token]).startswith(b" ")


def test_options_that_contradict_each_other_are_refused() -> None:
    from chatbridge_llama_cpp.options import LlamaOptions

    for bad, phrase in (
        ({"grammar": "root ::= a", "json_schema": {}}, "exclude each other"),
        ({"mirostat_tau": 3}, "without mirostat"),
        ({"total_context": 512}, "unified: true"),
        ({"batch": 64, "ubatch": 128}, "more than batch"),
        ({"main_gpu": 1}, "split_mode: none"),
        ({"tensor_split": [0, 0]}, "shares above 0"),
        ({"flash_attention": False, "kv_type_v": "q8_0"}, "needs flash_attention"),
        ({"rope_scaling": "linear", "yarn_orig_ctx": 4096}, "does nothing with rope_scaling: linear"),
        ({"n_gpu_layers": 3}, "Extra inputs"),
        ({"gpu_layers": -1}, "gpu_layers"),
        ({"path": ""}, "path of a file"),
    ):
        with pytest.raises(ValidationError, match=phrase):
            LlamaOptions.model_validate({"path": "m.gguf", **bad})
