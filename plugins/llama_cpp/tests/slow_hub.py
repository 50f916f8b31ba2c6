"""LLaMA and its relatives as transformers computes them from the names and rows of its own form, in float64.

Follows transformers' modeling_llama.py, modeling_qwen2.py and modeling_qwen3.py. Knows no file, no cache, no batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class SlowHub:
    """`config`: of config.json; `arrays`: by transformers' names."""

    def __init__(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.config, self.arrays = config, {name: array.astype(np.float64) for name, array in arrays.items()}
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head = config.get("head_dim") or config["hidden_size"] // self.heads

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Scores after each token, [tokens, vocabulary]."""
        x = self.arrays["model.embed_tokens.weight"][list(ids)]
        for number in range(self.config["num_hidden_layers"]):
            at = f"model.layers.{number}"
            y = self.norm(x, f"{at}.input_layernorm")
            q, k, v = (self.linear(y, f"{at}.self_attn.{name}_proj") for name in "qkv")
            q, k, v = (part.reshape(len(ids), -1, self.head) for part in (q, k, v))
            if f"{at}.self_attn.q_norm.weight" in self.arrays:
                q, k = self.norm(q, f"{at}.self_attn.q_norm"), self.norm(k, f"{at}.self_attn.k_norm")
            x = x + self.linear(self.attend(self.rotated(q), self.rotated(k), v), f"{at}.self_attn.o_proj")
            y = self.norm(x, f"{at}.post_attention_layernorm")
            gate, up = self.linear(y, f"{at}.mlp.gate_proj"), self.linear(y, f"{at}.mlp.up_proj")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, f"{at}.mlp.down_proj")
        head = self.arrays.get("lm_head.weight", self.arrays["model.embed_tokens.weight"])
        scores: np.ndarray = self.norm(x, "model.norm") @ head.T
        return scores

    def attend(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        shared = self.heads // self.kv_heads
        k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(self.head)
        scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed: np.ndarray = np.einsum("hij,jhd->ihd", weights, v).reshape(len(q), -1)
        return mixed

    def rotated(self, x: np.ndarray) -> np.ndarray:
        """The halves of each head are rotated against each other."""
        angles = np.arange(len(x))[:, None] * self.frequencies()
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def frequencies(self) -> np.ndarray:
        scaling = self.config.get("rope_scaling") or {}
        plain: np.ndarray = self.config.get("rope_theta", 10000.0) ** (-np.arange(0, self.head, 2) / self.head)
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind == "linear":
            plain = plain / scaling["factor"]
        elif kind == "llama3":
            plain = np.array([_stretched(frequency, scaling) for frequency in plain])
        return plain

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        out: np.ndarray = x @ self.arrays[f"{name}.weight"].T + self.arrays.get(f"{name}.bias", 0.0)
        return out

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        mean = (x * x).mean(-1, keepdims=True)
        normed: np.ndarray = x / np.sqrt(mean + self.config["rms_norm_eps"]) * self.arrays[f"{name}.weight"]
        return normed


def _stretched(frequency: float, scaling: Mapping[str, float]) -> float:
    """Llama 3.1's way, as transformers' `_compute_llama3_parameters` has it."""
    length = 2 * math.pi / frequency
    context, low, high = (
        scaling[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    if length < context / high:
        return frequency
    if length > context / low:
        return frequency / scaling["factor"]
    smooth = (context / length - low) / (high - low)
    return (1 - smooth) * frequency / scaling["factor"] + smooth * frequency
