"""A plan from a header or from published sizes: what it takes, what grows with what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatbridge_numpy.backend import NumpyOptions, plan
from chatbridge_numpy.model import load_model
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import Machine, MemoryPlan, ModelLoadError, PlanRequest, Row, guide_path, known_model

GIB = 1 << 30


def planned(
    path: Path | None, free: int = 0, conversations: int = 0, context: int | None = None, quantization: str = ""
) -> MemoryPlan:
    return plan(
        NumpyOptions(path=path, context_length=context), Machine(free), PlanRequest(conversations, quantization)
    )


def test_a_plan_is_what_a_loaded_model_holds(meta_path: Path) -> None:
    for path in (meta_path, guide_path()):
        model = load_model(path)
        context = model.info.context_length
        (main,) = planned(path, conversations=3, context=context).devices
        assert model._weights is not None
        assert main.parts["weights"] == pytest.approx(model._weights.nbytes, rel=0.001)
        state = model.new_state()
        model.step([Row(state, [1] * context, None)])
        assert main.parts["cache"] == 3 * state.nbytes
        model.close()


def test_the_guide_is_planned_without_a_path() -> None:
    assert planned(None, 8 * GIB).model == str(guide_path())


def test_what_does_not_fit_comes_with_what_would() -> None:
    model = known_model("llama-7b")
    options = NumpyOptions(path=Path("llama-7b"))

    def of(free: float, conversations: int = 1) -> MemoryPlan:
        return plan(options, Machine(int(free * GIB)), PlanRequest(conversations, model=model))

    assert of(30).fits
    assert of(34, 16).advice() == "4 conversations at once would fit"
    hopeless = of(16)
    assert hopeless.remedy is None
    assert "backend: llama_cpp" in hopeless.advice()
    with pytest.raises(ModelLoadError, match="'q4_0': the numpy backend has weights in float32 alone"):
        planned(None, quantization="q4_0")
    with pytest.raises(ModelLoadError, match="glm-130b: this is not known as a model of the numpy backend"):
        plan(options, Machine(0), PlanRequest(model=known_model("glm-130b")))


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 128), st.integers(1, 40))
def test_more_tokens_and_more_conversations_never_take_less(context: int, conversations: int) -> None:
    (once,) = planned(None, 0, conversations, context).devices
    (longer,) = planned(None, 0, conversations, 2 * context).devices
    (more,) = planned(None, 0, 2 * conversations, context).devices
    assert longer.parts["cache"] == more.parts["cache"] == 2 * once.parts["cache"]
    assert longer.needed > once.needed == sum(once.parts.values())
