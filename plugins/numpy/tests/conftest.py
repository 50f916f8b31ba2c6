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

from chatbridge.testing import (
    Arrays,
    PeftAdapter,
    fixtures,
    llama_metadata,
    llama_sizes,
    random_llama,
    read_meta_llama,
    read_peft_adapter,
    sentencepiece_metadata,
    write_gguf,
)

RECORDS = fixtures() / "llama"

SIZE = {"layers": 2, "dim": 64, "hidden": 96, "heads": 4, "kv_heads": 2, "context": 256, "vocabulary": 480}
"""A random model with grouped queries, for everything that recorded numbers are not needed for."""


def recorded_sizes() -> dict[str, Any]:
    """The sizes of the recorded LLaMA model."""
    return llama_sizes(RECORDS / "hf" / "config.json")


def recorded_adapter(name: str) -> PeftAdapter:
    """The recorded adapter in that folder."""
    return read_peft_adapter(RECORDS / name, heads=recorded_sizes()["heads"])


@pytest.fixture(scope="session")
def words() -> sentencepiece.SentencePieceProcessor:
    """The recorded models' tokenizer."""
    return sentencepiece.SentencePieceProcessor(model_file=str(RECORDS / "tokenizer.model"))


@pytest.fixture(scope="session")
def chinese() -> sentencepiece.SentencePieceProcessor:
    """The tokenizer of the recorded Chinese-LLaMA: the same pieces, and more behind them, of score 0."""
    return sentencepiece.SentencePieceProcessor(model_file=str(RECORDS / "chinese-llama-lora" / "tokenizer.model"))


@pytest.fixture(scope="session")
def meta_arrays() -> Arrays:
    """The recorded LLaMA weights."""
    return read_meta_llama(RECORDS / "meta-1shard" / "consolidated.00.pth")


@pytest.fixture(scope="session")
def meta_metadata(words: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    return llama_metadata(**recorded_sizes()) | sentencepiece_metadata(words)


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
    metadata = llama_metadata(**SIZE) | sentencepiece_metadata(words)
    return write_gguf(tmp_path_factory.mktemp("random") / "random.gguf", metadata, random_llama(**SIZE), "Q8_0")


@pytest.fixture(scope="session")
def random_model(random_path: Path) -> NumpyModel:
    return load_model(random_path)


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """What the original code computed, by name, without the batch's axis; `pN.input_ids` are the prompts."""
    arrays = {}
    for name in ("reference_meta_1shard.npz", "reference_hf.npz"):
        with np.load(RECORDS / name) as recorded:
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
