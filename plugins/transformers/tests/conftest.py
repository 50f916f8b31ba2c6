"""Fixtures of the transformers backend's tests: the recorded toy models, and what the original code computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatbridge_transformers.backend import load
from chatbridge_transformers.model import TransformersModel
from chatbridge_transformers.options import TransformersOptions

from chatbridge import Row, Sampling
from chatbridge.testing import fixtures

LLAMA = fixtures() / "llama"
BLOOM = fixtures() / "belle-bloom"

Load = Callable[..., TransformersModel]
GREEDY = Sampling(temperature=0)


def options_for(path: Path, **options: Any) -> TransformersOptions:
    """A model on one thread of the processor, since these are so small that a second one only waits."""
    return TransformersOptions.model_validate({"path": path, "threads": 1, "device": "cpu", **options})


def opened(path: Path, **options: Any) -> TransformersModel:
    return load(options_for(path, **options), lambda share, doing: None)


def recorded(path: Path) -> Any:
    """One of the JSON records."""
    return json.loads(path.read_text(encoding="utf-8"))


def arrays(path: Path) -> dict[str, np.ndarray]:
    """What the original code computed, by name."""
    with np.load(path) as found:
        return {key: found[key] for key in found}


def copy_of(folder: Path, target: Path, **config: Any) -> Path:
    """The folder's files in another place, with some keys of config.json changed; None takes a key away."""
    shutil.copytree(folder, target)
    change(target / "config.json", **config)
    return target


def change(path: Path, **keys: Any) -> None:
    """Set keys of a JSON file; None takes a key away."""
    found = recorded(path) | keys
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}), encoding="utf-8")


def greedy(model: TransformersModel, ids: Sequence[int], count: int, adapter: str = "") -> list[int]:
    """The likeliest ids after `ids`, read in two pieces and then one by one, up to the one that ends the reply."""
    state = model.new_state(None, adapter)
    half = max(1, len(ids) // 2)
    model.step([Row(state, list(ids[:half]), None)])
    sampler, found, pending = model.new_sampler(GREEDY, ids, 0), [], list(ids[half:])
    while len(found) < count and (not found or found[-1] not in model.info.eos):
        (pending,) = model.step([Row(state, pending, sampler)])
        found += pending
    state.release()
    return found


@pytest.fixture
def model_of() -> Iterator[Load]:
    """Loads a folder with options, and closes what it loaded when the test ends."""
    models: list[TransformersModel] = []

    def open_one(path: Path, **options: Any) -> TransformersModel:
        models.append(opened(path, **options))
        return models[-1]

    yield open_one
    for model in models:
        model.close()


@pytest.fixture(scope="session")
def llama() -> Iterator[TransformersModel]:
    """The recorded LLaMA model with both recorded adapters, for tests that leave no state behind."""
    model = opened(LLAMA / "hf", adapters={"alpaca": LLAMA / "alpaca-lora", "qkvo": LLAMA / "alpaca-lora-r16-qkvo"})
    yield model
    model.close()


@pytest.fixture(scope="session")
def bloom() -> Iterator[TransformersModel]:
    """The recorded BLOOM model, likewise."""
    model = opened(BLOOM / "hf")
    yield model
    model.close()


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """Of LLaMA and its adapters: by Meta's code (`pN.…`) and by Hugging Face's."""
    return arrays(LLAMA / "reference_meta_1shard.npz") | arrays(LLAMA / "reference_hf.npz")
