"""A plan adds up, says what is too little, and tries changes in order; its JSON keeps its form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbridge import (
    DevicePlan,
    Machine,
    MemoryPlan,
    ModelLoadError,
    device_plan,
    parse_devices,
    refuse_what_does_not_fit,
    with_changes,
)  # fmt: skip
from chatbridge.model_tools.planning.memory_plan import MAX_TRIED, PARTS, Part

GIB = 1 << 30


def plan_of(machine: Machine, weights: int, loading: int = 0, device: str = "cpu") -> MemoryPlan:
    share = device_plan(machine, device, {"weights": weights, "cache": 1 << 20}, loading=loading)
    return MemoryPlan("m.gguf", "toy", "f16", 4096, 1, (share,))


@given(
    st.dictionaries(st.sampled_from(PARTS), st.integers(0, 1 << 40)), st.integers(0, 1 << 42), st.integers(0, 1 << 42)
)
def test_what_a_device_needs_is_the_sum_of_its_parts(parts: dict[Part, int], loading: int, free: int) -> None:
    share = device_plan(Machine(free), "cpu", parts, loading=loading)
    assert share.needed == sum(parts.values())
    assert share.peak == max(share.needed, loading)
    assert share.fits == (not free or share.peak <= free)
    assert list(share.parts) == [part for part in PARTS if parts.get(part)]


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_more_memory_never_makes_a_model_not_fit(weights: int, free: int) -> None:
    fits = [plan_of(Machine(size), weights).fits for size in (free, 2 * free, 4 * free)]
    assert fits == sorted(fits)


def test_what_is_too_little_is_said_with_what_would_fit() -> None:
    small, card = parse_devices("cpu-1G"), parse_devices("A-2G")
    assert plan_of(small, 1000).shortage() == ""
    assert plan_of(small, 2 * GIB).shortage() == "it needs 2.0 GiB of main memory, and 1.0 GiB are free"
    assert plan_of(small, 1000, 3 * GIB).shortage() == "loading needs 3.0 GiB of main memory, and 1.0 GiB are free"
    assert plan_of(card, 4 * GIB, device="cuda:0").shortage() == "cuda:0 would need 4.0 GiB, and 2.0 GiB are free"
    assert plan_of(card, 1, device="cuda:1").shortage() == "cuda:1 would need 1.0 MiB, and 0.0 MiB are free"
    refuse_what_does_not_fit(plan_of(small, 1000))
    with pytest.raises(ModelLoadError, match=r"^m\.gguf: it needs 2\.0 GiB .*; take a smaller model, or free memory$"):
        refuse_what_does_not_fit(plan_of(small, 2 * GIB))


def test_changes_are_tried_in_order_until_one_fits() -> None:
    machine, made = parse_devices("cpu-1G"), list[int]()

    def planned(gib: int) -> MemoryPlan:
        made.append(gib)
        if gib == 7:
            raise ModelLoadError("that can't be")
        return plan_of(machine, gib * GIB // 2)

    changes = [(f"size: {gib}", lambda gib=gib: planned(gib)) for gib in (8, 7, 4, 1, 0)]
    found = with_changes(plan_of(machine, 9 * GIB), changes)
    assert made == [8, 7, 4, 1]
    assert [one.change for one in found.tried] == ["size: 8", "size: 4", "size: 1"]
    assert found.remedy is found.tried[-1]
    assert found.advice() == "size: 1 would fit"
    assert with_changes(plan_of(machine, 1), changes).tried == ()
    endless = ((f"{number}", lambda: plan_of(machine, 9 * GIB)) for number in range(10**9))
    assert len(with_changes(plan_of(machine, 9 * GIB), endless).tried) == MAX_TRIED


def test_the_json_keeps_its_form() -> None:
    machine = parse_devices("cpu-1G")
    found = with_changes(plan_of(machine, 2 * GIB), [("smaller: yes", lambda: plan_of(machine, 1))]).as_json()
    assert json.loads(json.dumps(found)) == found
    assert list(found) == [
        "model", "backend", "quantization", "context", "conversations", "fits", "shortage", "devices", "notes",
        "suggestions", "otherwise",
    ]  # fmt: skip
    (device,) = found["devices"]
    assert list(device) == ["device", "name", "free", "needed", "loading", "fits", "holds", "parts"]
    assert list(device["parts"]) == ["weights", "cache", "working memory", "program"]
    assert device["needed"] == sum(device["parts"].values())
    (suggestion,) = found["suggestions"]
    assert set(suggestion) == {"change", *found}
    assert (suggestion["change"], suggestion["fits"], found["fits"], found["otherwise"]) == (
        "smaller: yes", True, False, "",
    )  # fmt: skip


def test_a_device_that_can_not_be_told_is_not_forbidden() -> None:
    share = device_plan(Machine(0), "mps", {"weights": 1 << 50})
    assert share == DevicePlan("mps", "", None, {"weights": 1 << 50})
    assert share.fits
