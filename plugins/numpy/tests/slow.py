"""LLaMA written down as the papers say it: loops in float64, one position at a time. Slow, and easy to check.

Knows weights under GGUF's names; knows no file, no cache and no batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


class SlowLlama:
    """`heads`, `kv_heads`, `head`, `rope` and so on as in a GGUF file; `kv_heads` 0 is as many as `heads`."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        heads: int,
        kv_heads: int = 0,
        rope: int = 0,
        theta: float = 10000.0,
        scale: float = 1.0,
        epsilon: float = 1e-6,
    ) -> None:
        self.arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.head = len(arrays["blk.0.attn_q.weight"]) // heads
        self.rope, self.theta, self.scale, self.epsilon = rope or self.head, theta, scale, epsilon
        self.layers = sum(name.endswith("attn_q.weight") for name in arrays)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Scores after each token, [tokens, vocabulary]."""
        stream = [self.arrays["token_embd.weight"][i] for i in ids]
        for number in range(self.layers):
            at = f"blk.{number}"
            normed = [self.norm(x, f"{at}.attn_norm") for x in stream]
            queries = [self.rotated(self.linear(x, f"{at}.attn_q"), i) for i, x in enumerate(normed)]
            keys = [self.rotated(self.linear(x, f"{at}.attn_k"), i) for i, x in enumerate(normed)]
            values = [self.linear(x, f"{at}.attn_v").reshape(self.kv_heads, -1) for x in normed]
            for i in range(len(ids)):
                mixed = self.attend(queries[i], keys[: i + 1], values[: i + 1])
                x = stream[i] + self.linear(mixed, f"{at}.attn_output")
                y = self.norm(x, f"{at}.ffn_norm")
                gate, up = self.linear(y, f"{at}.ffn_gate"), self.linear(y, f"{at}.ffn_up")
                stream[i] = x + self.linear(gate / (1 + np.exp(-gate)) * up, f"{at}.ffn_down")
        output = self.arrays.get("output.weight", self.arrays["token_embd.weight"])
        return np.stack([output @ self.norm(x, "output_norm") for x in stream])

    def attend(self, query: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
        mixed = []
        for h in range(self.heads):
            kv = h * self.kv_heads // self.heads  # neighbouring heads share one pair of keys and values
            scores = np.array([query[h] @ key[kv] for key in keys]) / np.sqrt(self.head)
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            mixed.append(sum(weight * value[kv] for weight, value in zip(weights, values, strict=True)))
        return np.concatenate(mixed)

    def rotated(self, flat: np.ndarray, position: int) -> np.ndarray:
        """Rotary embedding (Su et al. 2021): neighbouring numbers are rotated by angles that grow with the position."""
        factors = self.arrays.get("rope_freqs.weight", np.ones(self.rope // 2))
        heads = flat.reshape(-1, self.head).copy()
        for pair in range(self.rope // 2):
            angle = position / self.scale / self.theta ** (2 * pair / self.rope) / factors[pair]
            x, y = heads[:, 2 * pair].copy(), heads[:, 2 * pair + 1].copy()
            heads[:, 2 * pair] = x * np.cos(angle) - y * np.sin(angle)
            heads[:, 2 * pair + 1] = x * np.sin(angle) + y * np.cos(angle)
        return heads

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return self.arrays[f"{name}.weight"] @ x + self.arrays.get(f"{name}.bias", 0.0)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + self.epsilon) * self.arrays[f"{name}.weight"]
