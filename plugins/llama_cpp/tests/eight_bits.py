"""LLaMA as llama.cpp computes it with packed weights: what a matrix is multiplied by is rounded to eight bits first.

That rounding is all that lies between the NumPy backend's numbers and llama.cpp's for the same q8_0 file. Knows weights
under GGUF's names; knows no cache and no batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

_BLOCK = 32


class EightBits:
    """A q8_0 file of the architecture "llama"."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
        metadata = {field.name: field.contents() for field in reader.fields.values()}
        self.heads: int = metadata["llama.attention.head_count"]
        self.layers: int = metadata["llama.block_count"]
        self.epsilon = np.float32(metadata["llama.attention.layer_norm_rms_epsilon"])
        self.base: float = metadata["llama.rope.freq_base"]

    def logits(self, ids: Sequence[int]) -> Floats:
        """Scores after each token, [tokens, vocabulary]."""
        x = self.weights["token_embd.weight"][list(ids)]
        for layer in range(self.layers):
            at = f"blk.{layer}."
            x = x + self.linear(self.attended(self.norm(x, at + "attn_norm"), at), at + "attn_output")
            y = self.norm(x, at + "ffn_norm")
            gate, up = self.linear(y, at + "ffn_gate"), self.linear(y, at + "ffn_up")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, at + "ffn_down")
        last = "output" if "output.weight" in self.weights else "token_embd"
        return self.linear(self.norm(x, "output_norm"), last)

    def attended(self, x: Floats, at: str) -> Floats:
        q, k, v = (self.linear(x, f"{at}attn_{name}").reshape(len(x), self.heads, -1) for name in "qkv")
        q, k = self.rotated(q), self.rotated(k)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(np.float32(q.shape[-1]))
        scores += np.triu(np.full((len(x), len(x)), -np.inf, np.float32), 1)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", scores, v).reshape(x.shape)

    def rotated(self, heads: Floats) -> Floats:
        """Rotary embedding (Su et al. 2021)."""
        size = heads.shape[-1]
        angles = np.outer(np.arange(len(heads)), self.base ** (-np.arange(0, size, 2) / size))
        pairs = np.ascontiguousarray(heads).view(np.complex64) * np.exp(1j * angles).astype(np.complex64)[:, None]
        return pairs.view(np.float32)

    def linear(self, x: Floats, name: str) -> Floats:
        return rounded(x) @ self.weights[f"{name}.weight"].T

    def norm(self, x: Floats, name: str) -> Floats:
        return x / np.sqrt((x * x).mean(1, keepdims=True) + self.epsilon) * self.weights[f"{name}.weight"]


def rounded(x: Floats) -> Floats:
    """Each block of 32 numbers as whole multiples of a 127th of its greatest, whose size is a float16 (q8_0)."""
    blocks = x.reshape(-1, _BLOCK)
    top = np.abs(blocks).max(1, keepdims=True)
    steps = np.rint(blocks * np.divide(127, top, out=np.zeros_like(top), where=top > 0))
    return (steps * (top / np.float32(127)).astype(np.float16).astype(np.float32)).reshape(x.shape)
