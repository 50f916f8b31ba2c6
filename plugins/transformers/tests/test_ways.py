"""Each architecture is computed in the fastest way that agrees with the library's own, alone and beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from chatbridge_transformers import ways
from chatbridge_transformers.alone import Anew, OwnState
from chatbridge_transformers.causal import Causal
from chatbridge_transformers.model import TransformersModel
from chatbridge_transformers.packed import Packed, UnfitError
from chatbridge_transformers.padded import Padded
from chatbridge_transformers.state import KvStates

from chatbridge import ModelLoadError, Row

from .conftest import GREEDY, LLAMA, Load, greedy
from .random_models import random_model

IDS = [(11 * i * i + 5 * i + 7) % 500 for i in range(40)]
"""A text longer than the windows of these models."""

PACKED = "in one row, without padding"
EXPECTED = {
    "qwen2": PACKED,
    "mistral": PACKED,
    "gemma2": PACKED,
    "gemma3_text": PACKED,
    "glm4": PACKED,
    "gpt2": PACKED,
    "gpt_oss": "side by side, padded (its attention is given s_aux)",
    "mamba": "by the model's own cache",
    "rwkv": "by the model's own cache",
}


def by_the_library(folder: Path, ids: list[int], count: int) -> list[int]:
    """What `generate` gives, as it is called everywhere."""
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    with torch.inference_mode():
        found = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=3)
    return [int(token) for token in found[0, len(ids) :]]


@pytest.mark.parametrize("kind", EXPECTED)
def test_an_architecture_answers_as_generate_does(kind: str, tmp_path: Path, model_of: Load) -> None:
    folder = random_model(tmp_path / "m", kind)
    model = model_of(folder)
    assert EXPECTED[kind] in model.info.details["together"]
    beside = model.new_state()
    model.step([Row(beside, IDS[20:], None)])
    count = 8 if kind in ("mamba", "rwkv") else 24
    assert greedy(model, IDS, count) == by_the_library(folder, IDS, count)
    beside.release()


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gpt_oss"])
def test_windows_hold_in_every_way(kind: str, tmp_path: Path, model_of: Load) -> None:
    folder = random_model(tmp_path / "m", kind)
    library = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        expected = library.eval()(torch.tensor([IDS])).logits[0].numpy()
    for options in ({}, {"attention": "eager"}, {"batched": False}):
        model = model_of(folder, **options)
        state, beside = model.new_state(), model.new_state()
        found = []
        for start, end in ((0, 3), (3, 4), (4, 30), (30, 40)):
            if not options:
                model.step([Row(beside, IDS[:2], None)])
            found.append(model.logits(state, IDS[start:end]))
        np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=2e-4)


def test_rows_in_any_company_are_what_they_are_alone(llama: TransformersModel) -> None:
    alone = [greedy(llama, IDS[start : start + 9], 12) for start in range(4)]
    states = [llama.new_state() for _ in range(4)]
    samplers = [llama.new_sampler(GREEDY, [], 0) for _ in states]
    pending = [IDS[start : start + 9] for start in range(4)]
    found: list[list[int]] = [[] for _ in states]
    for step in range(16):
        # The first two begin, and each step one more begins beside them: prompts and answers in the same row.
        own = [n for n in range(4) if n <= step + 1 and len(found[n]) < len(alone[n])]
        if not own:
            break
        for number, tokens in zip(own, llama.step([Row(states[n], pending[n], samplers[n]) for n in own]), strict=True):
            pending[number] = list(tokens)
            found[number] += tokens
    assert found == alone


def test_a_step_that_fails_leaves_states_as_they_were(llama: TransformersModel) -> None:
    state, other = llama.new_state(), llama.new_state(None, "alpaca")
    llama.step([Row(state, IDS[:5], None), Row(other, IDS[:5], None)])
    way: Any = llama._open().way
    expected = llama.logits(copy := state.fork(), IDS[5:9])
    whole, called = way._attend, []

    def failing(*args: Any, **kwargs: Any) -> Any:
        called.append(1)
        if len(called) == 3:
            raise RuntimeError("out of memory")
        return whole(*args, **kwargs)

    transformers.AttentionInterface.register(way._name, failing)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            llama.step([Row(state, IDS[5:7], None), Row(other, IDS[5:7], None)])
    finally:
        transformers.AttentionInterface.register(way._name, whole)
    assert (state.length, other.length) == (5, 5)
    np.testing.assert_array_equal(llama.logits(state, IDS[5:9]), expected)
    for one in (state, other, copy):
        one.release()


@pytest.fixture
def library() -> Any:
    """The recorded LLaMA as transformers loads it."""
    return transformers.AutoModelForCausalLM.from_pretrained(str(LLAMA / "hf"), dtype=torch.float32).eval()


def test_reading_anew_is_right_for_every_model(library: Any) -> None:
    causal = Causal(library)
    with torch.inference_mode():
        expected = library(torch.tensor([IDS[:12]])).logits[0]
        states = [OwnState("", can_trim=True) for _ in range(2)]
        way = Anew(causal)
        way.forward([(states[0], IDS[:7]), (states[1], IDS[:3])], [])
        states[0].trim(5)
        found = way.forward([(states[0], IDS[5:12]), (states[1], IDS[3:6])], [0, 1])
    torch.testing.assert_close(found, expected[[11, 5]], rtol=0, atol=2e-4)


def test_a_way_that_disagrees_is_not_taken(library: Any) -> None:
    """Fails where the check before the first answer lets a wrong way through."""

    class Forgetful(Padded):
        def _compute(self, rows: Any, *, every: bool) -> Any:
            for state, _ in rows:
                state.length = 0
            return super()._compute(rows, every=every)

    found = ways.choose(Causal(library), batched=True, replace_attention=False, exact=True, preferred=(Forgetful,))
    assert type(found.way) is Padded
    assert "forgetful: " in found.why
    assert "away from the model's own logits" in found.why


def test_what_an_attention_is_given_and_we_do_not_know_is_not_ignored(library: Any) -> None:
    way = Packed(Causal(library))
    original = type(library.model.layers[0].self_attn).forward
    try:
        for layer in library.model.layers:
            layer.self_attn.forward = _with_sinks(layer.self_attn, original)
        with torch.inference_mode(), pytest.raises(UnfitError, match="is given s_aux"):
            way.forward([(KvStates("x", 64).new(), IDS[:4])], [0])
    finally:
        way.close()
    assert library.config._attn_implementation == "sdpa"


def _with_sinks(attention: Any, original: Any) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(attention, *args, **kwargs, s_aux=torch.zeros(4))

    return forward


def test_a_model_of_no_numbers_is_refused(library: Any) -> None:
    with torch.no_grad():
        library.lm_head.weight[0] = float("inf")
    with pytest.raises(ModelLoadError, match="no numbers"):
        ways.choose(Causal(library), batched=True, replace_attention=True, exact=True)
