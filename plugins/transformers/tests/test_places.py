"""Where weights lie and of which type they are: packed by bitsandbytes, spread by accelerate, 16 bits, compiled."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from chatbridge_transformers import memory
from chatbridge_transformers.model import TransformersModel

from chatbridge import ModelLoadError, TensorInfo

from .conftest import LLAMA, Load, arrays, greedy, opened
from .random_models import random_model

NO_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is None
IDS = [(11 * i * i + 5 * i + 7) % 500 for i in range(20)]


def logits(model: TransformersModel, adapter: str = "") -> np.ndarray:
    state = model.new_state(None, adapter)
    return model.logits(state, IDS)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose matrices are large enough to be packed."""
    return random_model(tmp_path_factory.mktemp("wide") / "m", "llama", hidden_size=128, intermediate_size=256)


@pytest.mark.skipif(NO_BITSANDBYTES, reason="bitsandbytes, an extra, is not installed")
@pytest.mark.parametrize("kind", ["int8", "nf4", "fp4"])
def test_packed_weights_answer_nearly_the_same(kind: str, wide: Path, model_of: Load) -> None:
    exact, packed = model_of(wide), model_of(wide, quantization=kind)
    assert packed.info.details["weights"].startswith(f"{kind} by bitsandbytes")
    assert packed.info.fingerprint != exact.info.fingerprint
    found, expected = logits(packed), logits(exact)
    apart = float(np.abs(found - expected).mean() / expected.std())
    assert 0 < apart < {"int8": 0.1, "nf4": 0.6, "fp4": 0.8}[kind]
    alone = greedy(packed, IDS, 6)
    beside = packed.new_state()
    assert greedy(packed, IDS, 6) == alone
    beside.release()


@pytest.mark.skipif(NO_BITSANDBYTES, reason="bitsandbytes, an extra, is not installed")
def test_adapters_on_packed_weights_are_not_merged(model_of: Load) -> None:
    plain = model_of(LLAMA / "hf", quantization="int8")
    always = model_of(LLAMA / "hf", quantization="int8", lora=LLAMA / "alpaca-lora")
    named = model_of(LLAMA / "hf", quantization="int8", adapters={"alpaca": LLAMA / "alpaca-lora"})
    assert "merged" not in always.info.details["lora"]
    np.testing.assert_allclose(logits(named), logits(plain), rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits(named, "alpaca"), logits(always), rtol=0, atol=1e-4)
    exact = logits(model_of(LLAMA / "hf", lora=LLAMA / "alpaca-lora"))
    assert np.abs(logits(always) - exact).mean() < 0.2 * exact.std()


@pytest.mark.skipif(not NO_BITSANDBYTES, reason="bitsandbytes is installed")
def test_packing_without_the_package_says_what_to_install() -> None:
    with pytest.raises(ModelLoadError, match=r"pip install 'bitsandbytes"):
        opened(LLAMA / "hf", quantization="nf4")


def test_layers_on_disk_compute_the_same(wide: Path, model_of: Load, tmp_path: Path) -> None:
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu",
              "model.rotary_emb": "cpu", "lm_head": "cpu"}  # fmt: skip
    spread = model_of(wide, device="auto", device_map=places, offload_folder=tmp_path / "disk", dtype="float32")
    assert " on disk" in spread.info.details["memory"]
    assert "model.layers.1 on disk" in spread.info.details["layers"]
    np.testing.assert_allclose(logits(spread), logits(model_of(wide)), rtol=0, atol=2e-4)
    adapted = model_of(
        LLAMA / "hf", device="auto", device_map={"": "cpu"}, dtype="float32", adapters={"a": LLAMA / "alpaca-lora"}
    )
    np.testing.assert_allclose(
        logits(adapted, "a"), logits(model_of(LLAMA / "hf", lora=LLAMA / "alpaca-lora")), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_answer_nearly_the_same(dtype: str, model_of: Load) -> None:
    model = model_of(LLAMA / "hf", dtype=dtype)
    assert model.info.details["weights"] == dtype
    recorded = arrays(LLAMA / "reference_hf.npz")["hf.p0.logits"][0]
    ids = arrays(LLAMA / "reference_meta_1shard.npz")["p0.input_ids"][0].tolist()
    found = model.logits(model.new_state(), ids)
    assert np.abs(found - recorded).mean() < 0.1 * recorded.std()


def test_memory_is_reckoned_before_anything_is_read() -> None:
    tensors = {
        "model.layers.0.q.weight": TensorInfo((100, 100), "float16", 20_000),
        "lm_head.weight": TensorInfo((50, 100), "float16", 10_000),
    }
    assert memory.needed(tensors, "float32", None) == 60_000
    assert memory.needed(tensors, "float16", "int8") == 10_000 + 2 * 5_000
    packed = {"model.layers.0.q.qweight": TensorInfo((100, 25), "int32", 10_000)}
    assert memory.needed(packed, "float16", None) == 10_000
