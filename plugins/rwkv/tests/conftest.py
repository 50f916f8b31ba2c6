"""Fixtures of the rwkv backend's tests: the recorded toy models, and what the original code computed with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chatbridge_rwkv import package
from chatbridge_rwkv.backend import load
from chatbridge_rwkv.model import RwkvModel
from chatbridge_rwkv.options import RwkvOptions

from chatbridge.testing import fixtures

RECORDS = fixtures() / "rwkv"


def found(pattern: str) -> Path:
    """The file of that form among the records; the pattern itself as a path where there is none."""
    return min(RECORDS.glob(pattern), default=RECORDS / pattern, key=lambda path: len(path.name))


V4, V7 = found("rwkv4-*.pth"), found("rwkv7-*.pth")
CONVERTED = found("rwkv4-*-converted-*.pth")
TOKENIZER = found("*_tokenizer.json")
IDS = [11, 30, 45, 7, 48, 31, 32, 17, 99, 25, 41, 33]
"""A text for tests that compare nothing with records; those bring ids of their own."""

Load = Callable[..., RwkvModel]


@dataclass(frozen=True)
class Sizes:
    """What a model file holds; `heads` are 0 before RWKV-5."""

    layers: int
    width: int
    heads: int
    head_size: int
    vocabulary: int


@cache
def sizes(path: Path) -> Sizes:
    """The sizes of a recorded model, read from its tensors."""
    there(path)
    shapes = {
        name: tuple(value.shape) for name, value in torch.load(path, mmap=True).items() if hasattr(value, "shape")
    }
    vocabulary, width = shapes["emb.weight"]
    layers = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
    heads, head_size = shapes.get("blocks.0.att.r_k", (0, 0))
    return Sizes(layers, width, heads, head_size, vocabulary)


def there(path: Path) -> Path:
    """The path itself. The test, or the whole file of tests, is skipped where it is not among the records."""
    if path.parent == RECORDS and path.suffix and not path.exists():
        pytest.skip(f"{path.name} is not among the records in {RECORDS}", allow_module_level=True)
    return path


def vocabulary() -> int:
    """How many ids the recorded tokenizer has."""
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(there(TOKENIZER))).get_vocab_size())


def recorded(name: str) -> Any:
    """One of the JSON records."""
    return json.loads(there(RECORDS / name).read_text(encoding="utf-8"))


def options_for(path: Path, **options: Any) -> RwkvOptions:
    """A recorded model on one thread, since these are so small that a second one only waits."""
    return RwkvOptions.model_validate(
        {"path": there(path), "threads": 1, "strategy": "auto", "tokenizer": there(TOKENIZER), **options}
    )


def opened(path: Path, **options: Any) -> RwkvModel:
    return load(options_for(path, **options), lambda share, doing: None)


def converted_by_the_package(path: Path, strategy: str, folder: Path) -> dict[str, Any]:
    """The entries of the file that the package's own conversion writes."""
    module = package.module(package.Switches(v7=False, jit=False))
    target = folder / "theirs.pth"
    with package.quiet(), pytest.raises(SystemExit):
        module.RWKV(str(path), strategy, verbose=False, convert_and_save_and_exit=str(target))
    return dict(torch.load(target))


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
        with np.load(there(RECORDS / name)) as recorded:
            arrays |= {key: recorded[key] for key in recorded}
    return arrays
