"""Fixtures of the numpy backend's tests: the recorded LLaMA model, and small models of random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from chatbridge_numpy.gguf_file import GgufFile
from chatbridge_numpy.model import NumpyModel, load_model
from chatbridge_numpy.tokenizer import GgufTokenizer, read_tokenizer

from .convert import BASE, FIXTURES, Arrays, from_meta, model_metadata, random_weights, spm_metadata, write_gguf

SIZE = {"layers": 2, "dim": 64, "hidden": 96, "heads": 4, "kv_heads": 2, "context": 256, "vocabulary": 480}
"""A random model with grouped queries, for everything that recorded numbers are not needed for."""


@pytest.fixture(scope="session")
def words() -> sentencepiece.SentencePieceProcessor:
    """The recorded models' tokenizer."""
    return sentencepiece.SentencePieceProcessor(model_file=str(FIXTURES / "tokenizer.model"))


@pytest.fixture(scope="session")
def chinese() -> sentencepiece.SentencePieceProcessor:
    """The tokenizer of the recorded Chinese-LLaMA: the same pieces, and more behind them, of score 0."""
    return sentencepiece.SentencePieceProcessor(model_file=str(FIXTURES / "chinese-tokenizer.model"))


@pytest.fixture(scope="session")
def meta_arrays() -> Arrays:
    """The recorded LLaMA weights."""
    return from_meta(FIXTURES / "meta.pth")


@pytest.fixture(scope="session")
def meta_metadata(words: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    return model_metadata(**BASE) | spm_metadata(words)


@pytest.fixture(scope="session")
def meta_path(tmp_path_factory: pytest.TempPathFactory, meta_arrays: Arrays, meta_metadata: dict[str, Any]) -> Path:
    """The recorded LLaMA model as an f32 file."""
    return write_gguf(tmp_path_factory.mktemp("meta") / "toy.gguf", meta_metadata, meta_arrays)


@pytest.fixture(scope="session")
def meta_model(meta_path: Path) -> NumpyModel:
    return load_model(meta_path)


@pytest.fixture(scope="session")
def random_path(tmp_path_factory: pytest.TempPathFactory, words: sentencepiece.SentencePieceProcessor) -> Path:
    """A model of random weights as a q8_0 file."""
    metadata = model_metadata(**SIZE) | spm_metadata(words)
    return write_gguf(tmp_path_factory.mktemp("random") / "random.gguf", metadata, random_weights(**SIZE), "Q8_0")


@pytest.fixture(scope="session")
def random_model(random_path: Path) -> NumpyModel:
    return load_model(random_path)


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """What the original code computed, by name, without the batch's axis; `pN.input_ids` are the prompts."""
    arrays = {}
    for name in ("reference_meta.npz", "reference_hf.npz"):
        with np.load(FIXTURES / name) as recorded:
            arrays |= {key: recorded[key] if "batch" in key else recorded[key][0] for key in recorded}
    return arrays


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mapping[str, Any]], GgufTokenizer]:
    """Makes the tokenizer that `tokenizer.*` metadata describe, by way of a file."""

    def make(metadata: Mapping[str, Any]) -> GgufTokenizer:
        arrays = {"token_embd.weight": np.ones((1, 32), np.float32)}
        path = write_gguf(tmp_path_factory.mktemp("tokenizer") / "tokenizer.gguf", metadata, arrays)
        return read_tokenizer(GgufFile(path).metadata, path)

    return make
