"""What GLM-130B's code computed by one, two and four processes, against what one process computes from their shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chatbridge_glm import checkpoint, quantization
from chatbridge_glm.backend import load
from chatbridge_glm.local_model import GlmModel
from chatbridge_glm.quantization import Packed
from chatbridge_glm.rotary import mask_position, position_ids
from chatbridge_glm.weights import _joined

from chatbridge import LocalModel, ModelLoadError, Row
from chatbridge.testing import EngineContract

from .conftest import GLM_130B, Arrays, arrays, opened_sat, options_for, there
from .made_up import write_sat

SHARDED = sorted(path.name for path in GLM_130B.iterdir() if path.name.removeprefix("tp").isdigit())
MASKS = ("gmask", "mask", "smask")
REFERENCE = arrays("reference_tp1.npz", GLM_130B)


def near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 / 11 * float(np.abs(expected).max()))


def ids_of(mask: str, kind: str = "fp32") -> list[int]:
    return [int(token) for token in REFERENCE[f"{kind}.{mask}.input_ids"][0]]


@pytest.fixture(params=SHARDED)
def shards(request: pytest.FixtureRequest) -> Iterator[tuple[GlmModel, Arrays]]:
    """A model of so many shards, and what so many processes computed."""
    model = opened_sat(request.param)
    yield model, arrays(f"reference_{request.param}.npz", GLM_130B)
    model.close()


@pytest.mark.parametrize("mask", MASKS)
def test_logits_of_every_degree(shards: tuple[GlmModel, Arrays], mask: str) -> None:
    model, reference = shards
    state = model.new_state()
    near(model.logits(state, ids_of(mask)), reference[f"fp32.{mask}.logits"][0])
    step = [int(token) for token in REFERENCE[f"fp32.{mask}.step_token"][0]]
    near(model.logits(state, step), reference[f"fp32.{mask}.step_logits"][0])


@pytest.mark.parametrize("mask", MASKS)
def test_greedy_answers(shards: tuple[GlmModel, Arrays], mask: str) -> None:
    model, reference = shards
    ids = ids_of(mask)
    expected = [int(token) for token in reference[f"fp32.{mask}.greedy"][0]]
    state, found = model.new_state(), list(ids)
    logits = model.logits(state, ids)[-1]
    for wanted in expected[len(ids) :]:
        if wanted < 0:  # it had ended by itself
            break
        found.append(int(logits.argmax()))
        logits = model.logits(state, found[-1:])[0]
    assert found == expected[: len(found)]
    assert len(found) > len(ids) + 3


@pytest.mark.parametrize("mask", MASKS)
def test_positions(mask: str) -> None:
    ids = ids_of(mask)
    config = opened_sat(SHARDED[0])._model.config  # type: ignore[union-attr]
    context = ids.index(config.sop)
    recorded_ids = REFERENCE[f"fp32.{mask}.position_ids"][0]
    found = position_ids(config, 0, len(recorded_ids), context, mask_position(config, ids[:context]))
    assert found[0].tolist() == recorded_ids.tolist()


@pytest.mark.parametrize("mask", MASKS)
def test_each_layer(mask: str) -> None:
    model, ids = opened_sat(SHARDED[0]), ids_of(mask)
    state = model.new_state()
    wanted = REFERENCE[f"fp32.{mask}.hidden_per_layer"][:, 0]
    with torch.inference_mode():
        run = model._pass([(state, ids)])
        for expected in wanted:
            run.advance()
            run.advance()
            np.testing.assert_allclose(run.hidden.numpy(), expected, rtol=1e-4, atol=5e-2)
    if f"fp32.{mask}.mem_kv" in REFERENCE:
        for number, expected in enumerate(REFERENCE[f"fp32.{mask}.mem_kv"][:, 0]):
            for tensor, part in zip((state.keys[number], state.values[number]), np.split(expected, 2, 1), strict=True):
                found = tensor[:, : len(ids)].transpose(0, 1).flatten(1)
                np.testing.assert_allclose(found.numpy(), part, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("mask", MASKS)
def test_half_precision(mask: str) -> None:
    model = opened_sat(SHARDED[0], dtype="fp16")
    found = model.logits(model.new_state(), ids_of(mask, "fp16"))
    np.testing.assert_allclose(found, REFERENCE[f"fp16.{mask}.logits"][0], rtol=0, atol=1.0)


def test_packed_weights() -> None:
    model = opened_sat("tp1-int4")
    near(model.logits(model.new_state(), ids_of("gmask")), REFERENCE["int4.gmask.logits"][0])
    opened = checkpoint.read(GLM_130B / "tp1-int4", GLM_130B / "toy_config.json").files[0].open()
    for name in REFERENCE:
        if name.startswith("int4.dequant."):
            key = name.removeprefix("int4.dequant.")
            packed = Packed(opened.tensor(key), opened.tensor(f"{key}_scale"), 4)
            assert np.array_equal(quantization.unpack(packed, torch.float32).numpy(), REFERENCE[name])


@pytest.mark.parametrize("name", ["tp2-int4", "tp2-int8"])
def test_shards_with_scales_of_their_own_are_unpacked_each_by_itself(name: str, tmp_path: Path) -> None:
    about = checkpoint.read(there(GLM_130B / name), GLM_130B / "toy_config.json")
    opened = [file.open() for file in about.files]
    whole: dict[str, Any] = {}
    for key in about.tensors:
        parts = [file.tensor(key) for file in opened]
        if f"{key}_scale" in about.tensors:
            scales = [file.tensor(f"{key}_scale") for file in opened]
            packed = [Packed(part, scale, about.bits) for part, scale in zip(parts, scales, strict=True)]
            parts = [quantization.unpack(one, torch.float32) for one in packed]
        if not key.endswith("_scale"):
            whole[key] = _joined(key, parts).clone()
    folder = tmp_path / "unpacked"
    folder.mkdir()
    torch.save({"module": whole}, folder / "mp_rank_00_model_states.pt")
    plain, own = opened_sat(str(folder)), opened_sat(name)
    assert own._model is not None
    for mask in MASKS:
        expected = plain.logits(plain.new_state(), ids_of(mask))
        near(own.logits(own.new_state(), ids_of(mask)), expected)


def test_the_degree_is_found_and_said(tmp_path: Path) -> None:
    folder = write_sat(tmp_path / "sat", parallel=4)
    model = load(options_for(folder, config=folder / "ids.json"), lambda share, doing: None)
    assert model.info.details["shards"] == "4, joined (tensor parallelism of 4)"
    assert model.info.architecture == "GLM-130B"
    assert len(model.info.eos) == 2
    for name in ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "</s>"):
        assert model.tokenizer.special(name) is not None
    model.close()


def test_any_degree_gives_the_same_model(tmp_path: Path) -> None:
    found = []
    for parallel in (1, 2, 4):
        folder = write_sat(tmp_path / f"sat{parallel}", parallel=parallel)
        model = load(options_for(folder, config=folder / "ids.json"), lambda share, doing: None)
        ids = [*model.tokenizer.encode("the fox", start=True), model.tokenizer.special("[gMASK]") or 0]
        found.append(model.logits(model.new_state(), [*ids, model.info.bidirectional_until or 0]))
        model.close()
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)
    np.testing.assert_allclose(found[2], found[0], atol=1e-4)


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_layers_may_stay_in_the_files(tmp_path: Path, bits: int) -> None:
    folder = write_sat(tmp_path / "sat", parallel=2, bits=bits)
    found = []
    for device in ("cpu", {"cpu": 1, "disk": 1}, "disk"):
        model = load(options_for(folder, config=folder / "ids.json", device=device), lambda share, doing: None)
        found.append(model.logits(model.new_state(), [30, 31, 32, 33, model.info.bidirectional_until or 0]))
        assert ("on disk" in model.info.details["memory"]) == (device != "cpu")
        model.close()
    for logits in found[1:]:
        np.testing.assert_allclose(logits, found[0], atol=1e-3)


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    folder = write_sat(tmp_path / "sat", parallel=4)
    (folder / "100" / "mp_rank_02_model_states.pt").unlink()
    with pytest.raises(ModelLoadError, match=r"there are the shards 0, 1, 3; the ranks count from 0 without gaps"):
        load(options_for(folder, config=folder / "ids.json"), lambda share, doing: None)


def test_other_ids_than_those_of_glm_130b_are_asked_for(tmp_path: Path) -> None:
    folder = write_sat(tmp_path / "sat", parallel=2)
    with pytest.raises(ModelLoadError, match=r"control tokens begin at 150000; name a file with its special_ids"):
        load(options_for(folder), lambda share, doing: None)


@pytest.fixture(scope="module")
def sat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GlmModel]:
    """A model of two shards with a vocabulary, for tests that leave no state behind."""
    folder = write_sat(tmp_path_factory.mktemp("sat") / "sat", parallel=2)
    model = load(options_for(folder, config=folder / "ids.json"), lambda share, doing: None)
    yield model
    model.close()


class TestEngine(EngineContract):
    @pytest.fixture
    def model(self, sat: LocalModel) -> LocalModel:
        return sat


def test_conversations_with_different_masks_are_computed_together() -> None:
    model = opened_sat(SHARDED[0])
    states = [model.new_state() for _ in MASKS]
    model.step([Row(state, ids_of(mask), None) for state, mask in zip(states, MASKS, strict=True)])
    for state, mask in zip(states, MASKS, strict=True):
        step = [int(token) for token in REFERENCE[f"fp32.{mask}.step_token"][0]]
        near(model.logits(state, step), REFERENCE[f"fp32.{mask}.step_logits"][0])
