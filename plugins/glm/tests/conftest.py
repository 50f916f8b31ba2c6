"""Fixtures of the glm backend's tests: the recorded toy models, and what the original code computed with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chatbridge_glm import loading
from chatbridge_glm.backend import load
from chatbridge_glm.local_model import GlmModel
from chatbridge_glm.memory import PIECE
from chatbridge_glm.options import GlmOptions

from chatbridge import ModelInfo
from chatbridge.testing import fixtures

torch.set_num_threads(1)  # these models are so small that a second thread only waits

CHATGLM, GLM_130B = fixtures() / "chatglm", fixtures() / "glm130b"
Load = Callable[..., GlmModel]
Arrays = Mapping[str, np.ndarray]


def there(path: Path) -> Path:
    """The path itself. The test, or the whole file of tests, is skipped where it is not among the records."""
    if not path.exists():
        pytest.skip(f"{path} is not there", allow_module_level=True)
    return path


def recorded(name: str, folder: Path = CHATGLM) -> Any:
    """One of the JSON records."""
    return json.loads(there(folder / name).read_text(encoding="utf-8"))


@cache
def arrays(name: str, folder: Path = CHATGLM) -> Arrays:
    """One of the records of arrays, by their names."""
    with np.load(there(folder / name)) as found:
        return {key: found[key] for key in found}


@cache
def folder_of(*, bits: int = 0, embeddings: bool = False, prefix: bool = False) -> Path:
    """The recorded model of this form."""
    for config in sorted(there(CHATGLM).glob("*/config.json")):
        values = json.loads(config.read_text(encoding="utf-8"))
        form = (
            values.get("quantization_bit", 0),
            values.get("quantization_embeddings", False),
            "pre_seq_len" in values,
        )
        if form == (bits, embeddings, prefix):
            return config.parent
    pytest.skip(f"no model of {bits} bits is among the records", allow_module_level=True)
    raise AssertionError


TOKENIZER = next(CHATGLM.glob("*/ice_text.model"), CHATGLM / "ice_text.model")
TOLERANCE = 5e-4 / 11.5
"""How far logits may be from what was recorded, for each unit of the greatest, as the records' README has it."""


def near(found: np.ndarray, expected: np.ndarray, times: float = 1.0) -> None:
    """Assert that logits are as recorded."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=times * TOLERANCE * float(np.abs(expected).max()))


def options_for(path: Path, **options: Any) -> GlmOptions:
    """A recorded model with the recorded vocabulary, exact."""
    values = {"path": there(path), "threads": 1, "tokenizer": there(TOKENIZER), "dtype": "fp32", **options}
    return GlmOptions.model_validate(values)


def opened(path: Path, **options: Any) -> GlmModel:
    return load(options_for(path, **options), lambda share, doing: None)


def opened_sat(name: str, **options: Any) -> GlmModel:
    """A recorded GLM-130B, which has no tokenizer: only ids can be given to it."""
    given = options_for(GLM_130B / name, config=there(GLM_130B / "toy_config.json"), **options)
    loaded = loading.load(given, lambda share, doing: None)
    config = loaded.checkpoint.config
    info = ModelInfo(
        name, config.architecture, config.max_sequence_length, config.vocab_size, loaded.layout.fingerprint, "none",
        config.ends, bidirectional_until=config.sop, specials={"<sop>": config.sop},
    )  # fmt: skip
    tokenizer: Any = None
    return GlmModel(info, tokenizer, loaded.model, loaded.layout, loaded.prefixes, PIECE)


@pytest.fixture
def model_of() -> Iterator[Load]:
    """Loads a folder with options, and closes what it loaded when the test ends."""
    models: list[GlmModel] = []

    def open_one(path: Path, **options: Any) -> GlmModel:
        models.append(opened(path, **options))
        return models[-1]

    yield open_one
    for model in models:
        model.close()


@pytest.fixture(scope="session")
def chatglm() -> Iterator[GlmModel]:
    """The model as it is, in fp32, for tests that leave no state behind."""
    model = opened(folder_of())
    yield model
    model.close()


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GlmModel]:
    """A small model of random weights with a longer context, likewise."""
    from .made_up import write_chatglm

    model = opened(write_chatglm(tmp_path_factory.mktemp("made-up") / "chatglm", max_sequence_length=1024))
    yield model
    model.close()
