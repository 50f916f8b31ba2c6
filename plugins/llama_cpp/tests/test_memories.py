"""Models that remember otherwise than LLaMA: a recurrent state, and a window that slides over the last tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from chatbridge import LocalModel, ModelLoadError
from chatbridge.testing import LocalModelContract

from .conftest import EXACT, Load, opened
from .convert import Arrays, random_weights, spm_metadata, write_gguf

VOCABULARY, DIM, LAYERS, WINDOW = 480, 64, 2, 12


@pytest.fixture(scope="session")
def mamba_path(tmp_path_factory: pytest.TempPathFactory, words: sentencepiece.SentencePieceProcessor) -> Path:
    """Mamba (Gu and Dao 2023, arXiv 2312.00752) of random weights."""
    rng = np.random.default_rng(5)
    inner, state, rank, kernel = 2 * DIM, 8, 4, 4

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)

    arrays: Arrays = {"token_embd.weight": matrix(VOCABULARY, DIM) * 4, "output_norm.weight": np.ones(DIM)}
    for i in range(LAYERS):
        arrays |= {
            f"blk.{i}.attn_norm.weight": np.ones(DIM),
            f"blk.{i}.ssm_in.weight": matrix(2 * inner, DIM) * 2,
            f"blk.{i}.ssm_conv1d.weight": matrix(inner, kernel),
            f"blk.{i}.ssm_conv1d.bias": np.zeros(inner),
            f"blk.{i}.ssm_x.weight": matrix(rank + 2 * state, inner),
            f"blk.{i}.ssm_dt.weight": matrix(inner, rank),
            f"blk.{i}.ssm_dt.bias": np.zeros(inner),
            f"blk.{i}.ssm_a": -np.tile(np.arange(1, state + 1) / 20, (inner, 1)),
            f"blk.{i}.ssm_d": np.ones(inner),
            f"blk.{i}.ssm_out.weight": matrix(DIM, inner) * 2,
        }
    metadata = {
        "mamba.context_length": 512,
        "mamba.embedding_length": DIM,
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.block_count": LAYERS,
        "mamba.ssm.conv_kernel": kernel,
        "mamba.ssm.inner_size": inner,
        "mamba.ssm.state_size": state,
        "mamba.ssm.time_step_rank": rank,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
    }
    path = tmp_path_factory.mktemp("mamba") / "mamba.gguf"
    return write_gguf(path, metadata | spm_metadata(words), arrays, architecture="mamba")


@pytest.fixture(scope="session")
def window_path(tmp_path_factory: pytest.TempPathFactory, words: sentencepiece.SentencePieceProcessor) -> Path:
    """Gemma 2's shape of random weights: every other layer sees only the last tokens."""
    size = {"layers": LAYERS, "dim": DIM, "hidden": 96, "heads": 4, "kv_heads": 2, "vocabulary": VOCABULARY}
    arrays = random_weights(**size)
    for i in range(LAYERS):
        arrays |= {f"blk.{i}.{name}.weight": np.ones(DIM) for name in ("post_attention_norm", "post_ffw_norm")}
    metadata: dict[str, Any] = {
        "gemma2.context_length": 512,
        "gemma2.embedding_length": DIM,
        "gemma2.block_count": LAYERS,
        "gemma2.feed_forward_length": 96,
        "gemma2.attention.head_count": 4,
        "gemma2.attention.head_count_kv": 2,
        "gemma2.attention.key_length": 16,
        "gemma2.attention.value_length": 16,
        "gemma2.attention.sliding_window": WINDOW,
        "gemma2.attention.layer_norm_rms_epsilon": 1e-5,
    }
    path = tmp_path_factory.mktemp("window") / "window.gguf"
    return write_gguf(path, metadata | spm_metadata(words), arrays, architecture="gemma2")


class TestRecurrent(LocalModelContract):
    @pytest.fixture
    def model(self, mamba_path: Path) -> LocalModel:
        return opened(mamba_path, **EXACT)


class TestRecurrentWithTwoSequences(LocalModelContract):
    @pytest.fixture
    def model(self, mamba_path: Path) -> LocalModel:
        return opened(mamba_path, **EXACT, sequences=2)


class TestSlidingWindow(LocalModelContract):
    @pytest.fixture
    def model(self, window_path: Path) -> LocalModel:
        return opened(window_path, **EXACT)


class TestSlidingWindowThatForgets(LocalModelContract):
    @pytest.fixture
    def model(self, window_path: Path) -> LocalModel:
        return opened(window_path, **EXACT, swa_full=False)


def test_each_says_whether_it_can_trim(mamba_path: Path, window_path: Path, random_path: Path, model_of: Load) -> None:
    assert model_of(random_path).info.can_trim
    assert model_of(window_path).info.can_trim
    assert not model_of(mamba_path).info.can_trim
    forgetful = model_of(window_path, swa_full=False).info
    assert not forgetful.can_trim
    assert "sliding window" in forgetful.details


def test_a_recurrent_states_size_is_told_beforehand(mamba_path: Path, model_of: Load) -> None:
    details = model_of(mamba_path, sequences=8).info.details
    assert f"{8 * 4 * LAYERS * (3 * 128 + 8 * 128) / 2**20:.1f} MiB recurrent state on CPU" in details["memory"]


def test_guessing_needs_a_model_that_can_forget(mamba_path: Path, model_of: Load) -> None:
    with pytest.raises(ModelLoadError, match="needs a model that can forget wrong guesses"):
        model_of(mamba_path, draft="lookup")
