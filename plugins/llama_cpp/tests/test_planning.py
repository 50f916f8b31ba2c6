"""A plan from a header or from published sizes: what it takes, what grows with what, and what is refused."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from chatbridge_llama_cpp import loading
from chatbridge_llama_cpp.backend import llama_cpp, plan
from chatbridge_llama_cpp.options import LlamaOptions
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import Card, Machine, ModelLoadError, PlanRequest
from chatbridge.testing import plan_known

from .conftest import Load

GIB, MIB = 1 << 30, 1 << 20


planned = partial(plan_known, llama_cpp)


@pytest.mark.parametrize(
    ("name", "quantization", "size"),
    [
        ("llama-2-7b", "f16", 13.48e9),
        ("llama-2-7b", "q8_0", 7.16e9),
        ("llama-2-7b", "q4_k_m", 4.08e9),
        ("llama-2-7b", "q4_0", 3.83e9),
        ("llama-2-13b", "q4_0", 7.37e9),
        ("llama-2-13b", "q5_k_m", 9.23e9),
        ("llama-2-70b", "q4_0", 38.9e9),
        ("llama-2-7b", "q3_k_m", 3.30e9),
        ("llama-2-7b", "q2_k", 2.53e9),
        ("llama-2-7b", "iq4_xs", 3.62e9),
    ],
)
def test_weights_are_within_2_percent_of_published_files(name: str, quantization: str, size: float) -> None:
    """By the sizes that files of these types have on their pages (TheBloke/Llama-2-7B-GGUF and others)."""
    found = planned(name, "cpu-512G", quantization)
    assert found.devices[-1].parts["weights"] == pytest.approx(size, rel=0.02)


def test_layers_go_to_cards_and_the_rest_stays() -> None:
    whole = planned("llama-7b", "card-24G,cpu-32G", "q4_0", 1)
    assert [one.device for one in whole.devices] == ["cuda:0", "cpu"]
    assert whole.devices[0].holds == "layers 1 to 32 and the output"
    assert "gpu_layers: 33 of 33" in whole.notes
    part = planned("llama-7b", "2xcard-4G,cpu-32G", "f16", 1)
    assert part.fits
    assert part.devices[-1].holds.startswith("layers 1 to ")
    assert part.devices[-1].parts["cache"]
    weights = planned("llama-7b", "cpu-64G", "f16", 1).devices[0].parts["weights"]
    assert sum(one.parts["weights"] for one in part.devices) == weights


def test_every_type_is_tried_by_size_and_what_is_lost_below_four_bits_is_said() -> None:
    changes = [one.change for one in planned("llama-2-70b", "cpu-26G", "f16", 1).tried]
    words = [change.split()[4] for change in changes if change.startswith("a GGUF file in ")]
    assert words == ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs", "q3_k_m", "q2_k"]
    sizes = [planned("llama-2-70b", "cpu-512G", word).devices[-1].parts["weights"] for word in words]
    assert sizes == sorted(sizes, reverse=True)
    assert changes[-2:] == ["a GGUF file in q3_k_m (answers are noticeably worse)",
                            "a GGUF file in q2_k (answers are much worse)"]  # fmt: skip


def test_fewer_bits_are_advised_only_where_they_were_not_tried() -> None:
    assert planned("llama-7b", "cpu-2G", "f16").advice() == "take a smaller model: types down to q2_k were tried"
    assert planned("llama-7b", "cpu-2G", "q2_k").advice() == "take a smaller model"


def test_a_card_that_can_not_be_asked_is_not_forbidden() -> None:
    (card, main) = planned("llama-7b", "cpu-16G", "q4_0", 1, gpu_layers="all").devices
    assert (card.device, card.free, card.fits) == ("gpu", None, True)
    assert card.holds == "layers 1 to 32 and the output"
    assert main.parts["weights"] < GIB


def test_what_does_not_fit_comes_with_what_would() -> None:
    found = planned("llama-7b", "cpu-8G", "f16")
    assert not found.fits
    assert found.remedy is not None
    assert found.remedy.change == "a GGUF file in q6_k"
    assert "a GGUF file in q8_0" in [one.change for one in found.tried]
    assert planned("llama-7b", "cpu-16G", conversations=4).advice() == "sequences: 2 would fit"
    hopeless = planned("llama-65b", "cpu-8G")
    assert hopeless.remedy is None
    assert hopeless.advice().startswith("take a smaller model")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1 * GIB, 24 * GIB), max_size=4), st.integers(1, 4).map(lambda n: 256 * n), st.integers(1, 64)
)
def test_more_tokens_and_more_conversations_never_take_less(cards: list[int], context: int, conversations: int) -> None:
    machine = Machine(64 * GIB, tuple(Card("card", size) for size in cards))

    def total(context: int, conversations: int) -> tuple[int, int]:
        found = planned("llama-7b", machine, "q4_0", conversations, context_length=context)
        assert all(one.needed == sum(one.parts.values()) for one in found.devices)
        return (
            sum(one.parts.get("cache", 0) for one in found.devices),
            sum(one.parts["weights"] for one in found.devices),
        )

    cache, weights = total(context, conversations)
    assert total(2 * context, conversations)[0] == pytest.approx(2 * cache, abs=len(cards) + 1)
    assert total(context, 2 * conversations)[0] == pytest.approx(2 * cache, abs=len(cards) + 1)
    assert total(2 * context, conversations)[1] == weights


def test_a_plan_is_within_5_percent_of_what_llama_cpp_allocates(random_path: Path, model_of: Load) -> None:
    asked = LlamaOptions.model_validate({"path": random_path, "sequences": 4})
    (main,) = plan(asked, Machine(0), PlanRequest()).devices
    details = model_of(random_path, sequences=4).info.details["memory"]
    allocated = {kind: float(mib) for mib, kind in re.findall(r"([\d.]+) MiB (\w+) on", details)}
    assert main.parts["weights"] / MIB == pytest.approx(allocated["weights"], rel=0.05, abs=0.06)
    assert main.parts["cache"] / MIB == pytest.approx(allocated["cache"], rel=0.05, abs=0.06)


def test_what_is_no_model_of_this_backend_is_refused_in_words() -> None:
    with pytest.raises(ModelLoadError, match="'int4': the llama_cpp backend has weights in f32, "):
        planned("llama-7b", "cpu-16G", "int4")
    with pytest.raises(ModelLoadError, match="bloom-7b1: this is not known as a model of the llama_cpp backend"):
        planned("bloom-7b1", "cpu-16G")
    with pytest.raises(ModelLoadError, match="a plan downloads nothing"):
        plan(LlamaOptions.model_validate({"path": "owner/repo:m.gguf"}), Machine(0), PlanRequest())


def test_loading_refuses_by_the_plan(random_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, small = LlamaOptions.model_validate({"path": random_path, "sequences": 2}), Machine(1 << 20)
    monkeypatch.setattr(loading, "free_memory", lambda: small.main)
    with pytest.raises(ModelLoadError, match=r"of main memory, and 1\.0 MiB are free") as raised:
        loading.load(asked, lambda share, doing: None)
    assert plan(asked, small, PlanRequest()).shortage() in str(raised.value)


def test_layers_leave_room_for_as_many_conversations_as_there_are_in_the_end() -> None:
    found = planned("llama-13b", "3090-24G,cpu-8G")
    assert (found.fits, found.conversations) == (True, 4)
    alone = planned("llama-65b", "2x3090-24G,cpu-64G", conversations=1)
    assert planned("llama-65b", "2x3090-24G,cpu-64G").devices == alone.devices, (
        "it fits in no way, and is planned alone"
    )
