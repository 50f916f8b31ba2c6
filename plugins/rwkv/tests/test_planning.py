"""A plan from a header or from published sizes: what it takes, what grows with what, and what is refused."""

from __future__ import annotations

from functools import partial

import pytest
from chatbridge_rwkv import loading
from chatbridge_rwkv.backend import plan, rwkv
from chatbridge_rwkv.checkpoint import read
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import Card, Machine, ModelLoadError, PlanRequest
from chatbridge.testing import plan_known

from .conftest import CONVERTED, V4, V7, options_for, there

GIB = 1 << 30


planned = partial(plan_known, rwkv)


@pytest.mark.parametrize(
    ("name", "devices", "strategy"),
    [
        ("rwkv-4-14b", "A100-40G", "cuda fp16"),
        ("rwkv-4-14b", "2x3090-24G", "cuda:0 fp16 *20 -> cuda:1 fp16 *21"),
        ("rwkv-4-14b", "3090-24G,cpu-64G", "cuda fp16i8"),
        ("rwkv-4-7b", "cpu-64G", "cpu fp32"),
        ("rwkv-4-7b", "cpu-20G", "cpu bf16"),
        ("rwkv-7-2.9b", "card-8G,cpu-64G", "cuda fp16"),
        ("rwkv-7-2.9b", "card-4G,cpu-64G", "cpu fp32"),
    ],
)
def test_published_models_have_the_strategy_that_fits(name: str, devices: str, strategy: str) -> None:
    found = planned(name, devices)
    assert found.quantization == strategy
    assert found.fits
    assert [one.device for one in found.devices][-1] == "cpu"


def test_a_type_may_be_asked_for() -> None:
    assert planned("rwkv-4-3b", "cpu-64G", "fp32i8").quantization == "cpu fp32i8"
    assert planned("rwkv-4-3b", "2xcard-8G", "fp16i8").quantization == "cuda fp16i8"
    with pytest.raises(ModelLoadError, match=r"'q4_0': the rwkv backend has weights of RWKV-7 in fp32, bf16, fp16$"):
        planned("rwkv-7-0.1b", "cpu-4G", "q4_0")
    with pytest.raises(ModelLoadError, match="weights of RWKV-7"):
        planned("rwkv-7-0.1b", "cpu-4G", "fp16i8")
    with pytest.raises(ModelLoadError, match="no model of the rwkv backend"):
        planned("llama-7b", "cpu-4G")


def test_what_does_not_fit_comes_with_what_would() -> None:
    found = planned("rwkv-4-7b", "card-10G,cpu-64G", strategy="cuda fp16")
    assert not found.fits
    assert [one.change for one in found.tried] == ["strategy: cuda fp16i8"]
    assert found.remedy is not None
    assert found.remedy.plan.fits
    hopeless = planned("rwkv-4-14b", "cpu-4G")
    assert not hopeless.fits
    assert hopeless.remedy is None
    assert hopeless.advice() == "take a smaller model, or free memory"


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["rwkv-4-3b", "rwkv-7-1.5b"]),
    st.lists(st.integers(1 * GIB, 24 * GIB), max_size=4),
    st.integers(8, 8192),
    st.integers(1, 50),
)
def test_states_grow_by_conversations_and_never_by_tokens(
    name: str, cards: list[int], context: int, conversations: int
) -> None:
    machine = Machine(64 * GIB, tuple(Card("card", size) for size in cards))

    def cache(count: int, length: int) -> int:
        found = planned(name, machine, conversations=count, context_length=length)
        assert all(one.needed == sum(one.parts.values()) for one in found.devices)
        return sum(one.parts.get("cache", 0) for one in found.devices)

    assert cache(conversations, context) == cache(conversations, 2 * context)
    assert cache(2 * conversations, context) == 2 * cache(conversations, context)


@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu bf16", "cpu fp32i8"])
def test_a_plan_is_within_5_percent_of_what_a_loaded_model_holds(strategy: str) -> None:
    asked = options_for(V4, strategy=strategy)
    (main,) = plan(asked, Machine(8 * GIB), PlanRequest(conversations=3)).devices
    loaded = loading.load(asked, lambda share, doing: None)
    held = sum(tensor.nbytes for tensor in loaded.package_model._model.w.values())
    assert main.parts["weights"] == pytest.approx(held, rel=0.05)
    assert main.parts["cache"] == 3 * loaded.layout.nbytes


def test_the_states_of_rwkv_7_are_as_large_as_planned() -> None:
    asked = options_for(V7, strategy="cpu fp32")
    (main,) = plan(asked, Machine(8 * GIB), PlanRequest()).devices
    assert main.parts["cache"] == loading.load(asked, lambda share, doing: None).layout.nbytes


def test_a_converted_file_has_the_strategy_that_it_was_converted_for() -> None:
    asked = options_for(there(CONVERTED))
    assert plan(asked, Machine(8 * GIB, (Card("card", GIB),)), PlanRequest()).quantization == read(asked.path).converted
    with pytest.raises(ModelLoadError, match="was converted for the strategy"):
        plan(asked, Machine(8 * GIB), PlanRequest(quantization="fp32"))


def test_loading_refuses_by_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, small = options_for(V4), Machine(1 << 20)
    monkeypatch.setattr(loading, "this_machine", lambda: small)
    with pytest.raises(ModelLoadError, match=r"of main memory, and 1\.0 MiB are free") as raised:
        loading.load(asked, lambda share, doing: None)
    assert plan(asked, small, PlanRequest()).shortage() in str(raised.value)
