"""The arithmetic of a LLaMA model: many conversations' tokens in, one sampled token each out.

Touvron et al. 2023 (arXiv 2302.13971), with grouped-query attention and Llama 3's rope factors. Knows weights and
KV caches; knows no scheduling and no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import (
    LogitsSampler,
    Machine,
    ModelInfo,
    ModelLoadError,
    Row,
    Sampling,
    check_rows,
    free_memory,
    refuse_what_does_not_fit,
)
from chatbridge_numpy.describe import describe
from chatbridge_numpy.gguf_file import Floats, GgufFile
from chatbridge_numpy.lora import Lora
from chatbridge_numpy.params import Params, read_params
from chatbridge_numpy.planning import memory_plan
from chatbridge_numpy.state import KVCache
from chatbridge_numpy.tokenizer import GgufTokenizer, read_tokenizer
from chatbridge_numpy.weights import Layer, Weights, read_weights


class NumpyModel:
    """A `LocalModel`; see `load_model`."""

    def __init__(self, info: ModelInfo, tokenizer: GgufTokenizer, params: Params, weights: Weights) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self._params = params
        self._weights: Weights | None = weights
        self._frequencies = params.frequencies(weights.rope_factors)

    def new_state(self, saved: bytes | None = None, adapter: str = "") -> KVCache:
        """An empty cache, or the saved one. Raises BackendError where `saved` is another model's."""
        params = self._params
        shape = (params.layers, 2, params.kv_heads, params.head_dim)
        state = KVCache(shape, self.info.context_length, self.info.fingerprint)
        if saved is not None:
            state.load(saved)
        return state

    def new_sampler(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> LogitsSampler:
        return LogitsSampler(sampling, prompt, generated)

    def step(self, rows: Sequence[Row]) -> list[list[int]]:
        """See `LocalModel.step`. Raises ValueError for ids and lengths that the caller should have checked."""
        wanted = [i for i, row in enumerate(rows) if row.sampler is not None]
        ends = np.cumsum([len(row.tokens) for row in rows])
        hidden = self._forward(rows)
        logits = self._logits(hidden[ends[wanted] - 1]) if wanted else ()
        sampled: list[list[int]] = [[] for _ in rows]
        for i, scores in zip(wanted, logits, strict=True):
            sampler: Any = rows[i].sampler
            sampled[i] = [sampler.sample(scores)]
        return sampled

    def logits(self, state: KVCache, tokens: Sequence[int]) -> Floats:
        """Consume `tokens` and return the logits after each, [tokens, vocabulary]; for comparing engines."""
        return self._logits(self._forward([Row(state, tokens, None)]))

    def close(self) -> None:
        self._weights = None

    def _forward(self, rows: Sequence[Row]) -> Floats:
        """The last layer's output for each token, all rows one after another: [tokens, dim]."""
        weights, params = self._loaded_weights(), self._params
        check_rows(rows, self.info)
        ids: NDArray[np.int64] = np.concatenate([np.asarray(row.tokens, np.int64) for row in rows])
        spans = []
        start = 0
        for row in rows:
            state: Any = row.state
            state.reserve(len(row.tokens))
            spans.append((state, start, start + len(row.tokens)))
            start += len(row.tokens)
        positions = np.concatenate([np.arange(s.length, s.length + b - a) for s, a, b in spans])
        # A pair of numbers is rotated by one complex factor: all of rotary embedding is one multiplication.
        rotations = np.exp(1j * np.outer(positions, self._frequencies)).astype(np.complex64)[:, None]
        x = weights.embedding[ids]
        for index, layer in enumerate(weights.layers):
            qkv = _rms_norm(x, layer.attention_norm, params.epsilon) @ layer.qkv
            if layer.qkv_bias is not None:
                qkv += layer.qkv_bias
            attended = self._attention(qkv, rotations, spans, index) @ layer.out
            if layer.out_bias is not None:
                attended += layer.out_bias
            x += attended
            x += _feed_forward(_rms_norm(x, layer.ffn_norm, params.epsilon), layer)
        for state, a, b in spans:
            state.length += b - a
        return x

    def _attention(
        self, qkv: Floats, rotations: NDArray[np.complex64], spans: list[tuple[KVCache, int, int]], index: int
    ) -> Floats:
        """Attention of each token over its own conversation: [tokens, heads * head_dim].

        `qkv`: [tokens, (heads + 2 * kv_heads) * head_dim], rotated in place. `rotations`: [tokens, 1, rope_dim / 2].
        `spans`: each conversation's cache, and where its tokens begin and end. `index`: of the layer.
        """
        p = self._params
        pairs = qkv.view(np.complex64).reshape(len(qkv), p.heads + 2 * p.kv_heads, p.head_dim // 2)
        pairs[:, : p.heads + p.kv_heads, : p.rope_dim // 2] *= rotations
        heads = qkv.reshape(len(qkv), p.heads + 2 * p.kv_heads, p.head_dim)
        out = np.empty((len(qkv), p.heads, p.head_dim), np.float32)
        group = p.heads // p.kv_heads  # query heads that share one head of keys and values
        for state, a, b in spans:
            count, end = b - a, state.length + b - a
            kv = state.kv[index]
            new = heads[a:b, p.heads :].reshape(count, 2, p.kv_heads, p.head_dim)
            kv[:, :, state.length : end] = new.transpose(1, 2, 0, 3)
            q = heads[a:b, : p.heads].reshape(count, p.kv_heads, group, p.head_dim).transpose(1, 2, 0, 3)
            scores = q.reshape(p.kv_heads, group * count, p.head_dim) @ kv[0, :, :end].transpose(0, 2, 1)
            if count > 1:
                future = np.triu(np.full((count, count), -np.inf, np.float32), 1)
                scores.reshape(p.kv_heads, group, count, end)[..., state.length :] += future
            mixed = _softmax(scores) @ kv[1, :, :end]
            out[a:b] = mixed.reshape(p.heads, count, p.head_dim).transpose(1, 0, 2)
        return out.reshape(len(qkv), -1)

    def _logits(self, hidden: Floats) -> Floats:
        weights = self._loaded_weights()
        scores: Floats = _rms_norm(hidden, weights.norm, self._params.epsilon) @ weights.output
        return scores

    def _loaded_weights(self) -> Weights:
        if self._weights is None:
            raise ValueError("the model was closed")
        return self._weights


def load_model(
    path: Path,
    context_length: int | None = None,
    lora: Path | None = None,
    progress: Callable[[float, str], None] = lambda share, doing: None,
) -> NumpyModel:
    """Load a GGUF file, with the adapter `lora` merged into it, if there is one.

    `context_length`: in tokens; None for the file's own. `progress`: called with a share of 0 to 1 and what is done.
    Raises ModelLoadError.
    """
    progress(0.0, "opening the file")
    file = GgufFile(path)
    params = read_params(file.metadata, path)
    if context_length is not None and context_length > params.context_length:
        raise ModelLoadError(
            f"context_length: {context_length} is more than the {params.context_length} tokens that {path.name} "
            f"was trained for; leave it out, or give less"
        )
    refuse_what_does_not_fit(memory_plan(file, params, context_length, Machine(free_memory())))
    tokenizer = read_tokenizer(file.metadata, path)
    adapter = None if lora is None else Lora(lora)
    weights = read_weights(file, adapter, params, tokenizer.vocabulary.size, progress)
    progress(1.0, "ready")
    info = describe(file, adapter, params, weights, tokenizer, context_length or params.context_length)
    return NumpyModel(info, tokenizer, params, weights)


def _rms_norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    square = np.einsum("td,td->t", x, x)[:, None]
    scale = 1 / np.sqrt(square / np.float32(x.shape[1]) + np.float32(epsilon))
    normed: Floats = x * scale
    normed *= weight
    return normed


def _feed_forward(x: Floats, layer: Layer) -> Floats:
    gate, up = x @ layer.gate_up
    # silu(g) = g * sigmoid(g) = h * (1 + tanh h) with h = g/2: the gate's weights hold the half. tanh can't
    # overflow.
    active = np.tanh(gate)
    active += 1
    active *= gate
    active *= up
    down: Floats = active @ layer.down
    return down


def _softmax(scores: Floats) -> Floats:
    """Softmax over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores
