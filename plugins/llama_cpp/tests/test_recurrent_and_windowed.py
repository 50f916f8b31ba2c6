"""Models with another memory than LLaMA's KV cache: recurrent, hybrid, and with a window over the last tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from chatbridge_llama_cpp import loading
from chatbridge_llama_cpp.model import LlamaModel
from chatbridge_llama_cpp.options import LlamaOptions
from chatbridge_llama_cpp.state import LlamaState

from chatbridge import LocalModel, ModelLoadError, Row
from chatbridge.testing import LocalModelContract, sentencepiece_metadata

from .architectures import ARCHITECTURES, write_architecture
from .conftest import EXACT, Load, opened

PathOf = Callable[[str], Path]
IDS = [1, 40, 90, 41, 200, 91, 42, 300, 17, 60]
MIB = 1 << 20
CANNOT_TRIM = ("jamba", "lfm2", "mamba", "rwkv6", "rwkv7")
"""Their recurrent state is only the latest one, so that the last tokens can't be taken out of it."""


@pytest.fixture(scope="session")
def path_of(tmp_path_factory: pytest.TempPathFactory, words: sentencepiece.SentencePieceProcessor) -> PathOf:
    """The file of an architecture's model of random weights."""
    folder = tmp_path_factory.mktemp("architectures")
    paths = {name: write_architecture(folder, name, sentencepiece_metadata(words)) for name in ARCHITECTURES}
    return paths.__getitem__


class TestRecurrentAndHybrid(LocalModelContract):
    @pytest.fixture(params=CANNOT_TRIM)
    def model(self, request: pytest.FixtureRequest, path_of: PathOf) -> LocalModel:
        return opened(path_of(request.param), **EXACT)


class TestRecurrentAndHybridWithTwoSequences(LocalModelContract):
    @pytest.fixture(params=["jamba", "rwkv7"])
    def model(self, request: pytest.FixtureRequest, path_of: PathOf) -> LocalModel:
        return opened(path_of(request.param), **EXACT, sequences=2)


class TestSlidingWindow(LocalModelContract):
    @pytest.fixture
    def model(self, path_of: PathOf) -> LocalModel:
        return opened(path_of("gemma2"), **EXACT)


class TestSlidingWindowThatForgets(LocalModelContract):
    @pytest.fixture
    def model(self, path_of: PathOf) -> LocalModel:
        return opened(path_of("gemma2"), **EXACT, swa_full=False)


def read(model: LlamaModel, ids: list[int]) -> LlamaState:
    state = model.new_state()
    model.step([Row(state, ids, None)])
    return state


def after(model: LlamaModel, state: LlamaState, ids: list[int]) -> np.ndarray:
    """The logits after each of `ids`; the state is used up."""
    try:
        return model.logits(state, ids)
    finally:
        state.release()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_comes_next_depends_on_all_that_was_read(architecture: str, path_of: PathOf, model_of: Load) -> None:
    # Or the other tests here would say nothing.
    model = model_of(path_of(architecture), **EXACT)
    here, there = (after(model, read(model, [first, *IDS[1:8]]), IDS[8:]) for first in IDS[:2])
    assert np.abs(here - there).max() > 0.01


@pytest.mark.parametrize("architecture", CANNOT_TRIM)
@pytest.mark.parametrize("unified", [False, True], ids=["apart", "one pool"])
def test_forks_and_saves_change_no_number(architecture: str, unified: bool, path_of: PathOf, model_of: Load) -> None:
    """A fork and its original go on differently in the same steps, and each is as if it were alone."""
    model = model_of(path_of(architecture), **EXACT, unified=unified)
    expected = [after(model, read(model, [*IDS[:5], third]), IDS[6:]) for third in (7, 8)]
    state = read(model, IDS[:5])
    fork = state.fork()
    saved = state.save()
    model.step([Row(state, [7], None), Row(fork, [8], None)])
    restored = [model.new_state(saved), model.new_state(saved)]
    model.step([Row(restored[1], [8], None), Row(restored[0], [7], None)])
    assert (state.length, fork.length, restored[0].length) == (6, 6, 6)
    for one, other in ((state, 0), (fork, 1), (restored[0], 0), (restored[1], 1)):
        np.testing.assert_allclose(after(model, one, IDS[6:]), expected[other], atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("unified", [False, True], ids=["apart", "one pool"])
def test_what_was_swapped_out_comes_back(architecture: str, unified: bool, path_of: PathOf, model_of: Load) -> None:
    model = model_of(path_of(architecture), **EXACT, sequences=2, unified=unified)
    expected = [after(model, read(model, IDS[:n]), IDS[n:]) for n in range(1, 7)]
    states = [read(model, IDS[:n]) for n in range(1, 7)]
    assert sum(state.seq_id is not None for state in states) == 2
    assert all(state.nbytes > 64 for state in states if state.seq_id is None)
    for state, wanted in zip(states, expected, strict=True):
        np.testing.assert_allclose(after(model, state, IDS[state.length :]), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "more"),
    [*((name, {}) for name in ARCHITECTURES), ("gemma2", {"swa_full": False, "batch": 128})],
    ids=str,
)
def test_sizes_are_known_before_loading(architecture: str, more: dict[str, Any], path_of: PathOf) -> None:
    """To within what llama.cpp rounds to in its log."""
    sequences = 64
    asked = {"path": path_of(architecture), "sequences": sequences, "threads": 1, **more}
    loaded = loading.load(LlamaOptions.model_validate(asked), lambda share, doing: None)
    loaded.free()
    allocated = {"KV": 0.0, "RS": 0.0, "compute": 0.0}
    for kind, mib in re.findall(r"(KV|RS|compute) buffer size = +([\d.]+) MiB", "\n".join(loaded.log_lines)):
        allocated[kind] += float(mib)
    needs = loaded.plan.needs
    cache = needs.cache(loaded.plan.context_length, sequences)
    assert cache / MIB == pytest.approx(allocated["KV"] + allocated["RS"], abs=0.012)
    assert bool(needs.cell) == bool(allocated["KV"])
    assert allocated["compute"] / 2 < needs.compute / MIB < allocated["compute"] * 4


def test_each_says_whether_it_can_trim(path_of: PathOf, random_path: Path, model_of: Load) -> None:
    assert model_of(random_path).info.can_trim
    assert model_of(path_of("gemma2")).info.can_trim
    for architecture in CANNOT_TRIM:
        assert not model_of(path_of(architecture)).info.can_trim
    windowed = model_of(path_of("gemma2"), swa_full=False).info
    assert not windowed.can_trim
    assert "sliding window" in windowed.details


@pytest.mark.parametrize("architecture", CANNOT_TRIM)
def test_guessing_needs_a_model_that_can_forget(architecture: str, path_of: PathOf, model_of: Load) -> None:
    with pytest.raises(ModelLoadError, match="needs a model that can forget wrong guesses"):
        model_of(path_of(architecture), draft="lookup")
