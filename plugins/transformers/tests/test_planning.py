"""A plan from headers or from published sizes: what it takes, what grows with what, and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from chatbridge_transformers import loading
from chatbridge_transformers.backend import plan, transformers
from chatbridge_transformers.folder import read
from chatbridge_transformers.options import TransformersOptions
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import (
    Card,
    Machine,
    ModelLoadError,
    PlanRequest,
    refuse_what_does_not_fit,
)  # fmt: skip
from chatbridge.testing import fixtures, plan_known

GIB = 1 << 30


planned = partial(plan_known, transformers)


def test_the_weights_of_published_models_are_those_of_the_readme() -> None:
    for form, size in (("float32", 25.1), ("fp16", 12.55), ("int8", 6.5), ("nf4", 3.9)):
        card = planned("llama-7b", "card-64G", form).devices[0]
        assert card.parts["weights"] / GIB == pytest.approx(size, rel=0.01), form


def test_all_goes_to_the_first_card_unless_a_map_spreads_it() -> None:
    one = planned("llama-7b", "2xcard-24G,cpu-32G", conversations=1)
    assert [share.device for share in one.devices if share.parts.get("weights")] == ["cuda:0"]
    assert one.quantization == "float16"
    assert not planned("llama-30b", "2xcard-24G,cpu-32G").fits
    spread = planned("llama-30b", "2xcard-24G,cpu-64G", device_map="auto")
    assert spread.fits
    assert [share.device for share in spread.devices] == ["cuda:0", "cuda:1", "cpu"]
    assert all(share.parts["weights"] for share in spread.devices)
    disk = planned("llama-30b", "card-8G,cpu-8G", device_map="auto")
    assert disk.fits
    assert "stay on disk" in disk.notes[0]


def test_what_does_not_fit_comes_with_what_would() -> None:
    found = planned("llama-7b", "card-8G,cpu-64G")
    assert [one.change for one in found.tried] == ["quantization: int8", "quantization: nf4"]
    with pytest.raises(ModelLoadError, match=r"llama-7b: cuda:0 would need .*; quantization: nf4 would fit"):
        refuse_what_does_not_fit(found)
    hopeless = planned("llama-65b", "cpu-8G")
    assert hopeless.remedy is None
    assert planned("llama-13b", "card-24G,cpu-8G").advice() == "quantization: int8 would fit"


def test_a_processor_has_float32_where_that_fits() -> None:
    assert planned("llama-7b", "cpu-64G").quantization == "float32"
    assert planned("llama-7b", "cpu-24G").quantization == "bfloat16"
    assert planned("llama-7b", "cpu-24G", "int8").fits


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["llama-7b", "bloom-7b1", "llama-2-70b"]),
    st.lists(st.integers(1 * GIB, 80 * GIB), max_size=4),
    st.integers(8, 1024),
    st.integers(1, 20),
    st.sampled_from([None, "auto", "balanced"]),
)
def test_more_tokens_and_more_conversations_never_take_less(
    name: str, cards: list[int], context: int, conversations: int, spread: str | None
) -> None:
    machine = Machine(0, tuple(Card("card", size) for size in cards))

    def cache(context: int, conversations: int) -> int:
        options: dict[str, Any] = {"dtype": "float16", "device_map": spread, "context_length": context}
        found = planned(name, machine, "", conversations, **options)
        assert all(one.needed == sum(one.parts.values()) for one in found.devices)
        return sum(one.parts.get("cache", 0) for one in found.devices)

    once = cache(context, conversations)
    assert cache(2 * context, conversations) == cache(context, 2 * conversations) == 2 * once > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_plan_is_within_5_percent_of_what_a_loaded_model_holds(dtype: str) -> None:
    folder = next(path.parent for path in sorted(fixtures().glob("llama/*/config.json")))
    asked = TransformersOptions.model_validate({"path": folder, "dtype": dtype, "device": "cpu", "context_length": 64})
    (main,) = plan(asked, Machine(8 * GIB), PlanRequest()).devices
    loaded = loading.load(asked, read(folder), lambda share, doing: None)
    held = sum(value.nbytes for value in loaded.model.parameters())
    assert main.parts["weights"] == pytest.approx(held, rel=0.05)
    with torch.inference_mode():
        found = loaded.model(torch.tensor([[5] * 64]), use_cache=True).past_key_values
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in found.layers)
    assert main.parts["cache"] == pytest.approx(cached, rel=0.05)


def test_a_map_by_names_is_followed(tmp_path: Path) -> None:
    names: dict[str, str | int] = {"model.embed_tokens": 0, "model.norm": 0, "lm_head": 0}
    names |= {f"model.layers.{number}": 0 if number < 20 else "cpu" for number in range(32)}
    found = planned("llama-7b", "card-24G,cpu-32G", device_map=names)
    assert [share.holds for share in found.devices] == ["layers 1 to 20", "layers 21 to 32"]


def test_what_is_no_model_of_this_backend_is_refused_in_words() -> None:
    with pytest.raises(ModelLoadError, match="'q4_0': the transformers backend has weights in float32, float16, bfl"):
        planned("llama-7b", "cpu-16G", "q4_0")
    with pytest.raises(ModelLoadError, match="chatglm-6b: this is no model of the transformers backend"):
        planned("chatglm-6b", "cpu-16G")
    with pytest.raises(ModelLoadError, match="more than the 2048 tokens"):
        planned("llama-7b", "cpu-64G", context_length=4096)
    with pytest.raises(ModelLoadError, match="a plan downloads nothing"):
        plan(TransformersOptions.model_validate({"path": "owner/not-here"}), Machine(0), PlanRequest())


def test_loading_refuses_by_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, small = (
        TransformersOptions.model_validate({"path": fixtures() / "llama" / "hf", "device": "cpu"}),
        Machine(1 << 20),
    )
    monkeypatch.setattr(loading, "this_machine", lambda: small)
    with pytest.raises(ModelLoadError, match=r"of main memory, and 1\.0 MiB are free") as raised:
        loading.load(asked, read(fixtures() / "llama" / "hf"), lambda share, doing: None)
    assert plan(asked, small, PlanRequest()).shortage() in str(raised.value)
