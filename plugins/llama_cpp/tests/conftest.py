"""Fixtures of the llama.cpp backend's tests: the recorded LLaMA model, and small models of random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from chatbridge_llama_cpp.backend import load
from chatbridge_llama_cpp.model import LlamaModel
from chatbridge_llama_cpp.options import LlamaOptions

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

SIZE = {"layers": 2, "dim": 64, "hidden": 96, "heads": 4, "kv_heads": 2, "context": 512, "vocabulary": 480}
"""A random model with grouped queries, for everything that recorded numbers are not needed for."""

EXACT = {"flash_attention": False, "kv_type_k": "f32", "kv_type_v": "f32"}
"""Nothing is rounded to fewer bits, so that texts don't depend on which rows are computed together."""

Load = Callable[..., LlamaModel]
Quantize = Callable[..., tuple[int, str, str]]


def opened(path: Path, **options: Any) -> LlamaModel:
    """A model on one thread, since these are so small that a second one only waits."""
    return load(LlamaOptions.model_validate({"path": path, "threads": 1, **options}), lambda share, doing: None)


def write_with(folder: Path, tokenizer: dict[str, Any]) -> Path:
    """A file of random weights with that tokenizer."""
    size = SIZE | {"vocabulary": len(tokenizer["tokenizer.ggml.tokens"])}
    return write_gguf(folder / "model.gguf", llama_metadata(**size) | tokenizer, random_llama(**size))


def model_with(folder: Path, tokenizer: dict[str, Any]) -> LlamaModel:
    """A model of random weights with that tokenizer."""
    return opened(write_with(folder, tokenizer))


def recorded_sizes() -> dict[str, Any]:
    """The sizes of the recorded LLaMA model."""
    return llama_sizes(RECORDS / "hf" / "config.json")


def recorded_adapter(name: str) -> PeftAdapter:
    """The recorded adapter in that folder."""
    return read_peft_adapter(RECORDS / name, heads=recorded_sizes()["heads"])


@pytest.fixture
def model_of() -> Iterator[Load]:
    """Loads a file with options, and closes what it loaded when the test ends."""
    models: list[LlamaModel] = []

    def open_one(path: Path, **options: Any) -> LlamaModel:
        models.append(opened(path, **options))
        return models[-1]

    yield open_one
    for model in models:
        model.close()


@pytest.fixture(scope="session")
def words() -> sentencepiece.SentencePieceProcessor:
    """The recorded models' tokenizer."""
    return sentencepiece.SentencePieceProcessor(model_file=str(RECORDS / "tokenizer.model"))


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
def random_metadata(words: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    return llama_metadata(**SIZE) | sentencepiece_metadata(words)


@pytest.fixture(scope="session")
def random_path(tmp_path_factory: pytest.TempPathFactory, random_metadata: dict[str, Any]) -> Path:
    """A model of random weights as an f32 file."""
    return write_gguf(tmp_path_factory.mktemp("random") / "random.gguf", random_metadata, random_llama(**SIZE))


@pytest.fixture(scope="session")
def packed_path(tmp_path_factory: pytest.TempPathFactory, random_metadata: dict[str, Any]) -> Path:
    """The same weights as a q8_0 file."""
    path = tmp_path_factory.mktemp("packed") / "packed.gguf"
    return write_gguf(path, random_metadata, random_llama(**SIZE), "Q8_0")


@pytest.fixture(scope="session")
def random_model(random_path: Path) -> Iterator[LlamaModel]:
    """The random model, for tests that leave no state behind."""
    model = opened(random_path, **EXACT)
    yield model
    model.close()


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """What the original code computed, by name, without the batch's axis; `pN.input_ids` are the prompts."""
    arrays = {}
    for name in ("reference_meta_1shard.npz", "reference_hf.npz"):
        with np.load(RECORDS / name) as recorded:
            arrays |= {key: recorded[key] if "batch" in key else recorded[key][0] for key in recorded}
    return arrays


@pytest.fixture
def quantize(capfd: pytest.CaptureFixture[str]) -> Quantize:
    """How `model quantize` ends, what it prints, and what it says of errors."""
    from chatbridge.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(("model", "quantize", *map(str, arguments)))
        printed = capfd.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run
