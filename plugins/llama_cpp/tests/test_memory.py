"""The memory of a model is known from its header, and what can't fit is refused with what would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from chatbridge_llama_cpp.files import open_gguf
from chatbridge_llama_cpp.memory import Needs, Plan, read_needs
from chatbridge_llama_cpp.options import LlamaOptions
from chatbridge_llama_cpp.planning import decide

from chatbridge import Card, Machine, ModelLoadError, refuse_what_does_not_fit
from chatbridge.testing import llama_metadata, random_llama, write_gguf

from .conftest import SIZE, Load

MIB = 1 << 20
CELL = SIZE["layers"] * 2 * 2 * (SIZE["dim"] // SIZE["heads"]) * 2
"""Bytes of one token: layers, keys and values, two heads of 16, two bytes."""


def planned(path: Path, free: int = 0, gpu_free: int = 0, max_sequences: int = 256, **options: Any) -> Plan:
    asked = LlamaOptions.model_validate({"path": path, **options})
    machine = Machine(free, (Card("card", gpu_free),) if gpu_free else ())
    found, reckoned = decide([open_gguf(path)], asked, machine, max_sequences)
    refuse_what_does_not_fit(reckoned)
    return found


def test_sizes_are_those_that_llama_cpp_allocates(random_path: Path, model_of: Load) -> None:
    plan_of_four = planned(random_path, sequences=4)
    details = model_of(random_path, sequences=4).info.details["memory"]
    allocated = {kind: float(mib) for mib, kind in re.findall(r"([\d.]+) MiB (\w+) on", details)}
    assert plan_of_four.needs.weights / MIB == pytest.approx(allocated["weights"], abs=0.06)
    assert plan_of_four.needs.cache(512, 4) / MIB == pytest.approx(allocated["cache"], abs=0.06)
    assert allocated["computing"] / 2 < plan_of_four.needs.compute / MIB < allocated["computing"] * 4
    assert plan_of_four.needs.cell == CELL


def test_left_open_as_many_conversations_are_taken_as_fit(random_path: Path) -> None:
    needs = planned(random_path).needs
    assert planned(random_path).sequences == 16
    assert planned(random_path, max_sequences=8).sequences == 8
    fits_five = (needs.total(512, 5) + CELL) / 0.95
    assert planned(random_path, free=int(fits_five)).sequences == 5


def test_what_cannot_fit_is_refused_with_what_would(random_path: Path) -> None:
    needs = planned(random_path).needs
    free = int(needs.total(512, 3) / 0.95) + CELL
    with pytest.raises(ModelLoadError, match=r"it needs .* MiB of main memory, and .*; sequences: 3 would fit"):
        planned(random_path, free=free, sequences=9)
    assert planned(random_path, free=free, sequences=3).sequences == 3
    free = int(needs.total(256, 1) / 0.95) + CELL
    with pytest.raises(ModelLoadError, match=r"sequences: 1 with context_length: 256 would fit"):
        planned(random_path, free=free)
    assert planned(random_path, free=free, sequences=1, context_length=256).context_length == 256
    with pytest.raises(ModelLoadError, match="take a smaller model"):
        planned(random_path, free=needs.weights // 2)


def test_one_pool_takes_what_it_is_told(random_path: Path) -> None:
    assert planned(random_path, unified=True, sequences=8, total_context=1024).cells == 1024
    assert planned(random_path, unified=True, sequences=8).cells == 8 * 512


def test_as_many_layers_go_to_the_card_as_fit(random_path: Path) -> None:
    needs = planned(random_path).needs
    every = SIZE["layers"] + 1
    roomy = (256 << 20) + needs.total(512, 16) + MIB
    assert planned(random_path).gpu_layers == 0
    assert planned(random_path, gpu_free=roomy).gpu_layers == every
    layer = needs.layers[-1] + needs.cache(512, 16) // 2
    assert planned(random_path, gpu_free=(256 << 20) + needs.compute + layer + 1000).gpu_layers == 1
    assert planned(random_path, gpu_free=1 << 20).gpu_layers == 0
    assert planned(random_path, gpu_free=roomy, gpu_layers="all").gpu_layers == every
    assert planned(random_path, gpu_free=roomy, gpu_layers=99).gpu_layers == every
    assert planned(random_path, gpu_free=roomy, gpu_layers=1).gpu_layers == 1
    with pytest.raises(ModelLoadError, match=r"cuda:0 would need .* gpu_layers: auto would fit"):
        planned(random_path, gpu_free=1 << 20, gpu_layers="all")


def test_packed_caches_take_less(random_path: Path) -> None:
    packed = LlamaOptions.model_validate({"path": random_path, "kv_type_k": "q8_0", "kv_type_v": "q4_0"})
    assert read_needs([open_gguf(random_path)], packed).cell == int(CELL / 2 * (34 + 18) / 64)


def needs_of(folder: Path, *, window: int = 0, **size: Any) -> Needs:
    """The sizes of a model like the random one, but for these."""
    changed = SIZE | size
    metadata = llama_metadata(**changed)
    if window:
        metadata |= {"llama.attention.sliding_window": window, "llama.attention.sliding_window_pattern": 2}
    path = write_gguf(folder / "model.gguf", metadata, random_llama(**changed))
    return read_needs([open_gguf(path)], LlamaOptions.model_validate({"path": path, "swa_full": False}))


@pytest.mark.parametrize(("layers", "whole"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_windows_are_counted_where_the_last_group_of_layers_is_not_whole(
    tmp_path: Path, layers: int, whole: int
) -> None:
    needs = needs_of(tmp_path, window=12, layers=layers)
    each = CELL // SIZE["layers"]
    assert needs.cell == whole * each
    assert needs.fixed % each == 0
    assert needs.fixed // each % (layers - whole) == 0
    assert needs.fixed > 0


def test_a_small_feed_forward_leaves_the_attention_as_the_widest(tmp_path: Path) -> None:
    dim = SIZE["dim"]
    small, equal, wide = (needs_of(tmp_path, hidden=hidden).compute for hidden in (16, 2 * dim, 4 * dim))
    assert small == equal
    assert wide - equal == 4 * 512 * (2 * 4 - 4) * dim
