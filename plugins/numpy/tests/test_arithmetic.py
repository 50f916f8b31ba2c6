"""Each feature of the architecture against slow loops in float64; see slow.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from chatbridge_numpy.model import NumpyModel, load_model

from chatbridge import Row, Sampling
from chatbridge.testing import Arrays, llama_metadata, random_llama, sentencepiece_metadata, write_gguf

from .slow import SlowLlama

SIZE = {"layers": 2, "dim": 48, "hidden": 80, "heads": 6, "kv_heads": 6, "context": 256, "vocabulary": 480}
TOKENS = [1, 300, 17, 300, 479, 0, 258, 31, 302, 444, 9, 10]


def loaded(
    folder: Path, words: sentencepiece.SentencePieceProcessor, arrays: Arrays, size: dict[str, Any], **metadata: Any
) -> NumpyModel:
    described = llama_metadata(**size) | sentencepiece_metadata(words)
    described |= {f"llama.{key.replace('__', '.')}": value for key, value in metadata.items()}
    return load_model(write_gguf(folder / "model.gguf", described, arrays))


def agrees(model: NumpyModel, slow: SlowLlama) -> None:
    """The logits of both agree, read at once and in parts."""
    expected = slow.logits(TOKENS)
    spread = expected.std()
    np.testing.assert_allclose(model.logits(model.new_state(), TOKENS), expected, atol=1e-4 * spread)
    state = model.new_state()
    parts = [model.logits(state, part) for part in (TOKENS[:1], TOKENS[1:5], TOKENS[5:6], TOKENS[6:])]
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-4 * spread)


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_grouped_queries_share_keys_and_values(
    tmp_path: Path, words: sentencepiece.SentencePieceProcessor, kv_heads: int
) -> None:
    size = SIZE | {"kv_heads": kv_heads}
    arrays = random_llama(**size)
    model = loaded(tmp_path, words, arrays, size)
    agrees(model, SlowLlama(arrays, heads=6, kv_heads=kv_heads, epsilon=1e-5))
    assert model.new_state().kv.shape[2] == kv_heads


@pytest.mark.parametrize("biased", [("q", "k", "v", "output"), ("q",), ("k", "v"), ("output",)])
def test_biases_are_added_where_a_file_has_them(
    tmp_path: Path, words: sentencepiece.SentencePieceProcessor, biased: tuple[str, ...]
) -> None:
    size = SIZE | {"kv_heads": 2}
    arrays = random_llama(**size)
    rng = np.random.default_rng(3)
    for i in range(size["layers"]):
        for part in biased:
            rows = len(arrays[f"blk.{i}.attn_{part}.weight"])
            arrays[f"blk.{i}.attn_{part}.bias"] = rng.standard_normal(rows).astype(np.float32)
    agrees(loaded(tmp_path, words, arrays, size), SlowLlama(arrays, heads=6, kv_heads=2, epsilon=1e-5))


def test_llama_3_rope_factors_stretch_each_pair(tmp_path: Path, words: sentencepiece.SentencePieceProcessor) -> None:
    arrays = random_llama(**SIZE) | {"rope_freqs.weight": np.array([1.0, 1.3, 2.5, 8.0], np.float32)}
    model = loaded(tmp_path, words, arrays, SIZE, rope__freq_base=500000.0)
    agrees(model, SlowLlama(arrays, heads=6, theta=500000.0, epsilon=1e-5))


@pytest.mark.parametrize(
    "metadata",
    [
        {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0},
        {"rope__scaling__factor": 4.0},
        {"rope__scale_linear": 4.0},
    ],
)
def test_linear_scaling_slows_every_pair(
    tmp_path: Path, words: sentencepiece.SentencePieceProcessor, metadata: dict[str, Any]
) -> None:
    arrays = random_llama(**SIZE)
    agrees(loaded(tmp_path, words, arrays, SIZE, **metadata), SlowLlama(arrays, heads=6, scale=4.0, epsilon=1e-5))


def test_a_head_may_be_rotated_in_part(tmp_path: Path, words: sentencepiece.SentencePieceProcessor) -> None:
    arrays = random_llama(**SIZE)
    model = loaded(tmp_path, words, arrays, SIZE, rope__dimension_count=4)
    agrees(model, SlowLlama(arrays, heads=6, rope=4, epsilon=1e-5))


def test_heads_may_be_wider_than_their_share(tmp_path: Path, words: sentencepiece.SentencePieceProcessor) -> None:
    # As in Mistral NeMo: 6 heads of 12 in a model of 48.
    arrays = random_llama(**SIZE)
    rng = np.random.default_rng(5)
    for i in range(SIZE["layers"]):
        for part, shape in (("q", (72, 48)), ("k", (72, 48)), ("v", (72, 48)), ("output", (48, 72))):
            arrays[f"blk.{i}.attn_{part}.weight"] = (rng.standard_normal(shape) / 7).astype(np.float32)
    wide = {"attention__key_length": 12, "attention__value_length": 12, "rope__dimension_count": 12}
    agrees(loaded(tmp_path, words, arrays, SIZE, **wide), SlowLlama(arrays, heads=6, epsilon=1e-5))


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_is_the_embedding_again_where_it_is_left_out(
    tmp_path: Path, words: sentencepiece.SentencePieceProcessor, tied: bool
) -> None:
    arrays = random_llama(**SIZE, tied=tied)
    assert ("output.weight" in arrays) is not tied
    agrees(loaded(tmp_path, words, arrays, SIZE), SlowLlama(arrays, heads=6, epsilon=1e-5))


def test_one_value_for_each_layer_is_one_value(tmp_path: Path, words: sentencepiece.SentencePieceProcessor) -> None:
    arrays = random_llama(**SIZE)
    model = loaded(tmp_path, words, arrays, SIZE, attention__head_count_kv=[6, 6], feed_forward_length=[80, 80])
    agrees(model, SlowLlama(arrays, heads=6, epsilon=1e-5))


def test_rows_of_every_length_go_through_one_step(random_model: NumpyModel) -> None:
    prompts = [TOKENS[:1], TOKENS, TOKENS[3:], TOKENS[:5]]
    expected = [int(random_model.logits(random_model.new_state(), ids)[-1].argmax()) for ids in prompts]
    greedy = Sampling(temperature=0)
    rows = [Row(random_model.new_state(), ids, random_model.new_sampler(greedy, ids, 0)) for ids in prompts]
    silent = Row(random_model.new_state(), TOKENS[:7], None)
    stepped = random_model.step([*rows[:2], silent, *rows[2:]])
    assert stepped == [*([t] for t in expected[:2]), [], *([t] for t in expected[2:])]
    assert [row.state.length for row in rows] == [len(ids) for ids in prompts]
    assert silent.state.length == 7


def test_a_step_refuses_what_its_caller_should_have_checked(random_model: NumpyModel) -> None:
    state = random_model.new_state()
    for ids in ([], [480], [-1], [1] * 257):
        with pytest.raises(ValueError, match=r"at least one|outside the vocabulary"):
            random_model.step([Row(state, ids, None)])
    assert state.length == 0


def test_large_activations_do_not_overflow(tmp_path: Path, words: sentencepiece.SentencePieceProcessor) -> None:
    arrays = random_llama(**SIZE)
    arrays = {name: a * 300 if "ffn" in name or "attn_q" in name else a for name, a in arrays.items()}
    model = loaded(tmp_path, words, arrays, SIZE)
    assert np.isfinite(model.logits(model.new_state(), TOKENS)).all()
