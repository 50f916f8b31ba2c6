"""Fixtures of the rwkv backend's tests: the recorded toy models, and what the original code computed with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatbridge_rwkv.backend import load
from chatbridge_rwkv.model import RwkvModel
from chatbridge_rwkv.options import RwkvOptions

FIXTURES = Path(__file__).parent / "fixtures"
V4, V7 = FIXTURES / "rwkv4-tiny.pth", FIXTURES / "rwkv7-tiny.pth"
CONVERTED = FIXTURES / "rwkv4-tiny-converted-cpu_fp32i8.pth"
TOKENIZER = FIXTURES / "toy_20B_style_tokenizer.json"
IDS = [11, 300, 45, 7, 480, 301, 302, 17, 99, 256, 410, 33]
"""What the recorded logits follow."""

Load = Callable[..., RwkvModel]


def options_for(path: Path, **options: Any) -> RwkvOptions:
    """A recorded model on one thread, since these are so small that a second one only waits."""
    return RwkvOptions.model_validate(
        {"path": path, "threads": 1, "strategy": "auto", "tokenizer": TOKENIZER, **options}
    )


def opened(path: Path, **options: Any) -> RwkvModel:
    return load(options_for(path, **options), lambda share, doing: None)


@pytest.fixture
def model_of() -> Iterator[Load]:
    """Loads a file with options, and closes what it loaded when the test ends."""
    models: list[RwkvModel] = []

    def open_one(path: Path, **options: Any) -> RwkvModel:
        models.append(opened(path, **options))
        return models[-1]

    yield open_one
    for model in models:
        model.close()


@pytest.fixture(scope="session")
def v4() -> Iterator[RwkvModel]:
    """The RWKV-4 model, for tests that leave no state behind."""
    model = opened(V4)
    yield model
    model.close()


@pytest.fixture(scope="session")
def v7() -> Iterator[RwkvModel]:
    """The RWKV-7 model, likewise."""
    model = opened(V7)
    yield model
    model.close()


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """What the original code computed, by name: `v4.…` and `v7.…`."""
    arrays = {}
    for name in ("reference_v4.npz", "reference_v7.npz"):
        with np.load(FIXTURES / name) as recorded:
            arrays |= {key: recorded[key] for key in recorded}
    return arrays


def recorded(name: str) -> Any:
    """One of the JSON fixtures."""
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))
