"""A plan from published sizes: ChatGLM-6B's page and GLM-130B's table, what grows with what, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chatbridge_glm import loading
from chatbridge_glm.backend import glm, plan
from chatbridge_glm.options import GlmOptions
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbridge import (
    Card,
    Machine,
    MemoryPlan,
    ModelLoadError,
    PlanRequest,
    known_model,
    refuse_what_does_not_fit,
)
from chatbridge.testing import Document, plan_known, readmes

from .conftest import folder_of, options_for

GIB = 1 << 30


planned = partial(plan_known, glm)


def on_cards_alone(found: MemoryPlan) -> bool:
    main = found.on("cpu")
    return found.fits and main is not None and not main.parts.get("weights")


def test_a_chatglm_6b_in_int4_runs_in_6_gib() -> None:
    """By its page: 13 GB in half precision, 8 GB in int8, 6 GB in int4, with a conversation of 2,048 tokens."""
    for form, size in (("fp16", 14), ("int8", 8), ("int4", 6)):
        assert on_cards_alone(planned("chatglm-6b", f"card-{size}G", form)), form
    for form, size in (("fp16", 12), ("int8", 6), ("int4", 4)):
        assert not on_cards_alone(planned("chatglm-6b", f"card-{size}G,cpu-16G", form)), form
    assert on_cards_alone(planned("chatglm-6b-int4", "card-6G"))
    assert planned("chatglm-6b-int4", "cpu-6GiB").fits


@pytest.mark.parametrize(
    ("devices", "quantization", "whole"),
    [
        ("8xA100-40G", "", True),
        ("8xV100-32G", "", False),  # with BMInf's offload
        ("8xV100-32G", "int8", True),
        ("8x3090-24G", "int8", True),
        ("4x3090-24G", "int4", True),
        ("8x2080Ti-11G", "int4", True),
        ("4x3090-24G", "int8", False),
        ("4x2080Ti-11G", "int4", False),
    ],
)
def test_each_row_of_glm_130bs_table(devices: str, quantization: str, whole: bool) -> None:
    """Cards, and whether weights are offloaded, by the table in THUDM/GLM-130B's README; then two that it has not."""
    found = planned("glm-130b", devices, quantization)
    assert found.fits, found.shortage()
    assert on_cards_alone(found) == whole
    assert len(found.devices) - 1 == int(devices[0])


def test_the_processor_has_to_have_room_for_what_is_offloaded() -> None:
    assert planned("glm-130b", "8xV100-32G,cpu-128G").fits
    found = planned("glm-130b", "8xV100-32G,cpu-16G")
    assert not found.fits
    assert found.remedy is not None
    assert found.remedy.change == "quantization: int8"
    assert found.remedy.plan.quantization == "int8"


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    found = planned("chatglm-6b", "cpu-10G", dtype="fp32")
    with pytest.raises(
        ModelLoadError,
        match=r"chatglm-6b: it needs 2\d\.\d GiB of main memory, and 10\.0 GiB are free; quantization: int8 would",
    ):
        refuse_what_does_not_fit(found)
    hopeless = planned("chatglm-6b", "cpu-1G")
    assert hopeless.remedy is None
    assert hopeless.advice().startswith("take a smaller model, free memory, or leave layers in the files")
    assert planned("chatglm-6b", "cpu-8G", device="disk").fits


def test_changes_are_tried_in_order_and_each_is_planned() -> None:
    found = planned("chatglm-6b-int4", "cpu-5.5G", conversations=8)
    assert [one.change for one in found.tried[:3]] == [
        "4 conversations at once", "2 conversations at once", "1 conversation at once",
    ]  # fmt: skip
    assert [one.plan.conversations for one in found.tried[:3]] == [4, 2, 1]
    assert [one.plan.fits for one in found.tried] == [False] * (len(found.tried) - 1) + [True]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["chatglm-6b", "glm-130b", "chatglm-6b-int4"]),
    st.lists(st.integers(1 * GIB, 80 * GIB), max_size=8),
    st.integers(8, 1024),
    st.integers(1, 20),
)
def test_more_tokens_and_more_conversations_never_take_less(
    name: str, cards: list[int], context: int, conversations: int
) -> None:
    model = known_model(name)
    machine = Machine(0, tuple(Card("card", size) for size in cards))

    def total(context: int, conversations: int) -> dict[str, int]:
        asked = GlmOptions.model_validate({"path": name, "context_length": context, "dtype": "fp16"})
        found = plan(asked, machine, PlanRequest(conversations, model=model))
        assert all(one.needed == sum(one.parts.values()) for one in found.devices)
        return {part: sum(one.parts.get(part, 0) for one in found.devices) for part in ("weights", "cache")}

    once, longer, more = (
        total(context, conversations), total(2 * context, conversations), total(context, 2 * conversations),
    )  # fmt: skip
    assert longer["cache"] == more["cache"] == 2 * once["cache"]
    # Small parameters are in float32 on processors, so layers that move there take a little more.
    assert once["weights"] <= longer["weights"] * 1.001
    assert once["weights"] == pytest.approx(longer["weights"], rel=0.001)


@pytest.mark.parametrize("options", [{}, {"quantization": "int8"}, {"quantization": "int4"}, {"dtype": "bf16"}])
def test_a_plan_from_files_is_what_is_held_once_they_are_loaded(options: dict[str, Any]) -> None:
    asked = options_for(folder_of(), **options)
    found = plan(asked, Machine(16 * GIB), PlanRequest())
    loaded = loading.load(asked, lambda share, doing: None)
    (main,) = found.devices
    assert main.parts["weights"] == loaded.held
    state = loaded.layout.token_bytes * loaded.layout.max_length
    assert main.parts["cache"] == state
    assert found.context == loaded.layout.max_length


def test_loading_refuses_by_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, small = options_for(folder_of()), Machine(1 << 20)
    monkeypatch.setattr(loading, "this_machine", lambda: small)
    with pytest.raises(ModelLoadError, match=r"MiB of main memory, and 1\.0 MiB are free") as raised:
        loading.load(asked, lambda share, doing: None)
    assert plan(asked, small, PlanRequest()).shortage() in str(raised.value)


def test_a_form_that_the_backend_has_not_is_refused_in_words() -> None:
    with pytest.raises(ModelLoadError, match="'q4_0': the glm backend has weights in fp32, bf16, fp16, int8 and int4"):
        planned("chatglm-6b", "cpu-16G", "q4_0")
    with pytest.raises(ModelLoadError, match="hold weights of 4 bits already"):
        planned("chatglm-6b-int4", "cpu-16G", "int8")
    with pytest.raises(ModelLoadError, match="no model of the glm backend"):
        planned("llama-7b", "cpu-16G")
    assert glm.plan is not None


@pytest.mark.parametrize("readme", readmes(Path(__file__).parents[3]), ids=str)
def test_the_example_in_the_readme_is_what_is_printed(readme: Document) -> None:
    (block,) = (block for block in readme.blocks("") if block.startswith("$ chatbridge model plan"))
    command, _, told = block.partition("\n")
    done = subprocess.run(
        [sys.executable, "-m", *command.split()[1:]], capture_output=True, text=True, encoding="utf-8", check=False,
        env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert (done.returncode, done.stdout.rstrip(), done.stderr) == (1, told.rstrip(), "")


def test_a_plan_needs_no_torch() -> None:
    program = (
        "import sys; from chatbridge.cli import main\n"
        "try: main(['model', 'plan', 'chatglm-6b', '--devices', 'cpu-16G', '--quant', 'int4'])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"
