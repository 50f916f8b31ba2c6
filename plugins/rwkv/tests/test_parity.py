"""What the rwkv package computed, recorded once, against what we compute: logits, states, greedy texts, strategies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chatbridge_rwkv.model import RwkvModel
from chatbridge_rwkv.state import RwkvState

from chatbridge import Row

from .conftest import CONVERTED, IDS, V4, V7, Load, recorded
from .weights import write_model

V4_RECORD, V7_RECORD = recorded("reference_v4.json"), recorded("reference_v7.json")


def strategies(record: dict[str, Any]) -> list[str]:
    """The strategies that the package ran. For RWKV-7 it takes several parts, and ignores all but the first."""
    found = [name for name, value in record.items() if isinstance(value, dict) and value.get("ok")]
    return found if record is V4_RECORD else [name for name in found if "->" not in name]


def logits_of(version: int, strategy: str) -> str:
    """The recorded name of a strategy's logits."""
    name = strategy.replace(" -> ", "_to_").replace(" *", "_x").replace("+", "plus").replace(" ", "_")
    return f"v{version}.{'fp32' if strategy == 'cpu fp32' else name}.logits_full"


def tolerance(strategy: str, logits: np.ndarray) -> float:
    """How far ours may be from what was recorded. The package's own results for one token at a time and for many are
    apart as far. Logits that are spread out more are further apart, too: these are for a standard deviation of 3.
    """
    kinds = {"bf16": 0.6, "fp16": 0.15, "i8": 1e-3, "fp32": 2e-4}
    return next(value for kind, value in kinds.items() if kind in strategy) * float(logits.std()) / 3


def close(found: np.ndarray, reference: dict[str, np.ndarray], version: int, strategy: str = "cpu fp32") -> None:
    """Assert that logits after some or all of the recorded ids, the last ones, are as recorded."""
    logits = reference[logits_of(version, strategy)]
    expected = logits[len(logits) - len(found) :]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(strategy, logits))


NAMED = {4: "RWKV-4", 5.0: "RWKV-5", 5.1: "RWKV-5.1", 5.2: "RWKV-5.2", 6.0: "RWKV-6", 7: "RWKV-7"}
NAMES = {
    4: ("att_xx", "ffn_xx", "att_aa", "att_bb", "att_pp"),
    7: ("att_x_prev", "ffn_x_prev", "att_kv"),
}


def greedy(model: RwkvModel, ids: Sequence[int], count: int) -> list[int]:
    """The likeliest ids after `ids`, read in one go and then one by one."""
    state = model.new_state()
    model.step([Row(state, ids[:-1], None)])
    found = [ids[-1]]
    for _ in range(count):
        found.append(int(model.logits(state, found[-1:])[0].argmax()))
    return found[1:]


def held(state: RwkvState) -> list[tuple[np.ndarray, ...]]:
    """What a state holds, by layers."""
    layers = state._states.layout.views(state.tensors)
    return [tuple(tensor.numpy() for tensor in layer) for layer in layers]


def test_nothing_recorded_is_left_out(reference: dict[str, np.ndarray]) -> None:
    assert {"cpu fp32", "cpu bf16"} <= {*strategies(V4_RECORD)} & {*strategies(V7_RECORD)}
    names = {logits_of(4, strategy) for strategy in strategies(V4_RECORD)}
    assert names == {name for name in reference if name.startswith("v4.") and name.endswith(".logits_full")}


@pytest.mark.parametrize("strategy", strategies(V4_RECORD))
def test_v4_logits_of_every_strategy(strategy: str, model_of: Load, reference: dict[str, np.ndarray]) -> None:
    model = model_of(V4, strategy=strategy)
    ids = V4_RECORD["ids"]
    assert model.info.details["together"].startswith("up to"), "it was not our own arithmetic"
    close(model.logits(model.new_state(), ids), reference, 4, strategy)
    whole = model.new_state()  # the same read in two pieces, with somebody else in the batch
    other = model.new_state()
    half = len(ids) // 2
    model.step([Row(other, [3], None), Row(whole, ids[:half], None)])
    model.step([Row(whole, ids[half:-1], None), Row(other, [5, 6], None)])
    close(model.logits(whole, ids[-1:]), reference, 4, strategy)


@pytest.mark.parametrize("version", [4, 7])
def test_the_model_goes_on_as_recorded(version: int, model_of: Load, reference: dict[str, np.ndarray]) -> None:
    path, record = (V4, V4_RECORD) if version == 4 else (V7, V7_RECORD)
    model = model_of(path, strategy="cpu fp32")
    ids, expected = record["ids"], record["cpu fp32"]
    spread = tolerance("cpu fp32", reference[logits_of(version, "cpu fp32")])
    assert expected["greedy_min_margin"] > 2 * spread, "the record is no good: which token is likelier is chance"
    assert greedy(model, ids, len(expected["greedy"])) == expected["greedy"]
    state = model.new_state()
    close(model.logits(state, ids), reference, version)
    for number, layer in enumerate(held(state)):
        for name, value in zip(NAMES[version], layer, strict=True):
            array = reference[f"v{version}.fp32.state.{number}.{name}"]
            np.testing.assert_allclose(value, array, rtol=0, atol=1e-3, err_msg=f"{number}.{name}")
    (name,) = [name for name in reference if name.startswith(f"v{version}.fp32.next_logits_after_")]
    following = int(name.rpartition("_")[2])
    np.testing.assert_allclose(model.logits(state, [following])[0], reference[name], rtol=0, atol=spread)


@pytest.mark.parametrize("strategy", strategies(V7_RECORD))
def test_v7_logits_of_every_strategy(strategy: str, model_of: Load, reference: dict[str, np.ndarray]) -> None:
    model = model_of(V7, strategy=strategy)
    close(model.logits(model.new_state(), V7_RECORD["ids"]), reference, 7, strategy)


def test_a_converted_file_is_the_file_itself(tmp_path: Path, model_of: Load, reference: dict[str, np.ndarray]) -> None:
    strategy, ids = V4_RECORD["converted_extra_keys"]["_strategy"], V4_RECORD["ids"]
    converted, fresh = model_of(CONVERTED), model_of(V4, strategy=strategy, convert=True, convert_folder=tmp_path)
    assert converted.info.details["strategy"] == strategy
    # No equal bits are promised: how a sum is rounded depends on the processor and on where matrices lie in memory.
    for model in (converted, fresh, model_of(V4, strategy=strategy)):
        assert model.info.details["together"].startswith("up to"), "it was not our own arithmetic"
        close(model.logits(model.new_state(), ids), reference, 4, strategy)
    theirs = torch.load(CONVERTED)
    ours = torch.load(fresh.info.details["converted"])
    packed = [name for name, value in theirs.items() if isinstance(value, torch.Tensor) and value.dtype == torch.uint8]
    assert packed
    for name in packed:
        # Weights are divided by scales and rounded down to 8 bits. A quotient may differ in its last digit from
        # processor to processor, and where it is nearly whole, rounding down makes one step of that.
        assert int((ours[name].int() - theirs[name].int()).abs().max()) <= 1, name
        for scale in ("_mx", "_rx", "_my", "_ry"):
            torch.testing.assert_close(ours[name + scale], theirs[name + scale], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("version", [4, 7])
def test_the_packages_own_way_is_recorded_too(version: int, model_of: Load, reference: dict[str, np.ndarray]) -> None:
    path, record = (V4, V4_RECORD) if version == 4 else (V7, V7_RECORD)
    model = model_of(path, strategy="cpu fp32", batched=False)
    assert "batched: false" in model.info.details["together"]
    close(model.logits(model.new_state(), record["ids"]), reference, version)


@pytest.mark.parametrize("version", [4, 5.0, 5.1, 5.2, 6.0, 7])
@pytest.mark.parametrize("seed", [1, 2])
def test_ours_and_the_packages_agree_on_other_models(version: float, seed: int, tmp_path: Path, model_of: Load) -> None:
    path = write_model(tmp_path / "m.pth", version, layers=7, width=96, seed=seed, vocabulary=600)
    ours, theirs = model_of(path), model_of(path, batched=False, jit=False)
    assert ours.info.architecture == NAMED[version]
    assert ours.info.details["together"].startswith("up to"), "it was not our own arithmetic"
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 600, 40).tolist()
    states = []
    for model in (ours, theirs):
        state, beside = model.new_state(), model.new_state()
        model.step([Row(state, ids[:1], None), Row(beside, ids[5:9], None)])
        model.step([Row(state, ids[1:20], None), Row(beside, ids[9:10], None)])
        model.step([Row(beside, ids[:3], None), Row(state, ids[20:39], None)])
        states.append((model.logits(state, ids[39:]), model.logits(beside, ids[:1]), held(state)))
    for mine, other in zip(states[0][:2], states[1][:2], strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-4)
    for mine, other in zip(states[0][2], states[1][2], strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)


@pytest.mark.parametrize("strategy", ["cpu fp32 *1 -> cpu bf16", "cpu fp16", "cpu fp32i8", "cpu fp32 *2+"])
@pytest.mark.parametrize("version", [5.2, 6.0])
def test_strategies_of_versions_in_between(version: float, strategy: str, tmp_path: Path, model_of: Load) -> None:
    path = write_model(tmp_path / "m.pth", version, layers=7, seed=1)
    ours = model_of(path, strategy=strategy)
    theirs = model_of(path, strategy=strategy, batched=False, jit=False)
    assert ours.info.details["together"].startswith("up to")
    found, expected = (model.logits(model.new_state(), IDS) for model in (ours, theirs))
    if "16" not in strategy:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
        return
    # Rounding to 16 bits moves logits of random weights far; what counts is that ours are moved about as far.
    exact = model_of(path)
    true = exact.logits(exact.new_state(), IDS)
    assert np.abs(found - true).mean() <= 1.5 * np.abs(expected - true).mean()


@pytest.mark.parametrize("version", [5.2, 6.0])
def test_a_state_merged_into_a_model_is_what_it_begins_with(version: float, tmp_path: Path, model_of: Load) -> None:
    path = write_model(tmp_path / "m.pth", version)
    tensors = torch.load(path)
    tensors |= {f"blocks.{number}.att.time_state": torch.randn(2, 32, 32).bfloat16() for number in range(2)}
    torch.save(tensors, path)
    model = model_of(path, batched=False, jit=False)
    package = model._arithmetic._model  # type: ignore[union-attr]
    with torch.inference_mode():
        expected, _ = package.forward(IDS, None)
    for one in (model, model_of(path)):
        np.testing.assert_allclose(one.logits(one.new_state(), IDS)[-1], expected.numpy(), rtol=0, atol=2e-4)
